import {
  type FanOutScore,
  type HostModel,
  type PlanDiff,
  predictDecode,
  predictPrefill,
  type RoutingTrace,
  type StepTimeWorkload,
  uncalibratedHost,
} from '@switchyard/placement';
import { counted, formatBytes } from '../terminal/quantity.ts';
import { textTable } from '../terminal/table.ts';

/** Tokens by which plans are scored and proven on the command line: more changes the third digit. */
export const scoreTokensMax = 40_000;

/** The numbers by which two plans are compared. */
export interface PlanFigures {
  homeShare: number;
  remoteNodes: number;
  peakMean: number;
  stepPeakMean: number;
  bytesPerToken: number;
  /** Predicted by playing steps through: of a decode step of 64 tokens, and of 2,048 tokens of prompts. */
  decodeSeconds: number;
  prefillSeconds: number;
}

/** Streams of the decode step and tokens of the prefill whose times are predicted. */
const decodeStreams = 64;
const prefillTokens = 2048;

/** @param measured null: not calibrated */
export function figuresOf(score: FanOutScore, workload: Omit<StepTimeWorkload, 'host'>, measured: HostModel | null): PlanFigures {
  const { trace, topology } = workload;
  const host = measured ?? uncalibratedHost(topology);
  return {
    homeShare: score.homeShare,
    remoteNodes: score.remoteNodes,
    peakMean: score.peakMean,
    stepPeakMean: score.stepPeakMean,
    bytesPerToken: score.remoteNodes * trace.moeLayers.length * (topology.dispatchRowBytes + topology.combineRowBytes),
    decodeSeconds: predictDecode({ ...workload, host }, decodeStreams).secondsPerStep,
    prefillSeconds: predictPrefill({ ...workload, host }, prefillTokens).seconds,
  };
}

const percent = (value: number) => `${(100 * value).toFixed(1)}%`;
const milliseconds = (seconds: number) => `${(1000 * seconds).toFixed(2)} ms`;

/** "now" against "proposed", one row per figure. */
export function comparisonTable(columns: { name: string; figures: PlanFigures }[], diff: PlanDiff | null, gap: string): string {
  const row = (name: string, show: (f: PlanFigures) => string) => [name, ...columns.map(({ figures }) => show(figures))];
  const rows = [
    row('share served on the home node', (f) => percent(f.homeShare)),
    row('remote nodes per token and layer (r)', (f) => f.remoteNodes.toFixed(3)),
    row('peak/mean load', (f) => f.peakMean.toFixed(3)),
    row('peak/mean load per step of 64', (f) => f.stepPeakMean.toFixed(3)),
    row('bytes between nodes per token', (f) => formatBytes(Math.round(f.bytesPerToken))),
    row(`predicted decode step (${decodeStreams} tokens)`, (f) => milliseconds(f.decodeSeconds)),
    row(`predicted prefill (${prefillTokens} tokens)`, (f) => milliseconds(f.prefillSeconds)),
  ];
  const last = (name: string, text: string) => [name, ...columns.map((_, i) => (i === columns.length - 1 ? text : '-'))];
  if (diff !== null) rows.push(last('bytes to move', `${formatBytes(diff.bytes)} (${formatBytes(diff.interNodeBytes)} between nodes)`));
  rows.push(last('gap to the proven bound', gap));
  return textTable(['', ...columns.map((c) => c.name)], rows);
}

/** What the figures were measured on, in words. */
export function measuredOn(trace: RoutingTrace, heldOut: boolean): string {
  return `measured on ${counted(trace.tokens, 'token')} of ${counted(trace.sequences.length, heldOut ? 'held-out sequence' : 'sequence')}`;
}

export function stepTimesBy(measured: HostModel | null): string {
  return measured === null ? 'step times of an uncalibrated host (switchyard bench calibrate)' : 'step times of the calibrated host';
}
