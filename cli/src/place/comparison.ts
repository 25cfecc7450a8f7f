import {
  type Cluster,
  type DeviceModel,
  type FanOutScore,
  type LoadMatrix,
  type PlanDiff,
  predictStep,
  type RoutingTrace,
  uncalibratedDevice,
} from '@switchyard/placement';
import type { Plan, Topology } from '@switchyard/proto';
import { formatBytes } from '../terminal/quantity.ts';
import { textTable } from '../terminal/table.ts';

/** The numbers by which two plans are compared. */
export interface PlanFigures {
  homeShare: number;
  remoteNodes: number;
  peakMean: number;
  stepPeakMean: number;
  bytesPerToken: number;
  /** Predicted, of a decode step of 64 tokens and of a prefill chunk of 2,048. */
  decodeSeconds: number;
  prefillSeconds: number;
}

export function figuresOf(
  score: FanOutScore,
  plan: Plan,
  cluster: Cluster,
  topology: Topology,
  loads: LoadMatrix,
  measured: DeviceModel | null,
): PlanFigures {
  const device = measured ?? uncalibratedDevice;
  const decode = predictStep(score, plan, cluster, topology, loads, device, 64);
  const prefill = predictStep(score, plan, cluster, topology, loads, device, 2048);
  return {
    homeShare: score.homeShare,
    remoteNodes: score.remoteNodes,
    peakMean: score.peakMean,
    stepPeakMean: score.stepPeakMean,
    bytesPerToken: decode.bytesPerToken,
    decodeSeconds: decode.seconds,
    prefillSeconds: prefill.seconds,
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
    row('predicted decode step (64 tokens)', (f) => milliseconds(f.decodeSeconds)),
    row('predicted prefill (2048 tokens)', (f) => milliseconds(f.prefillSeconds)),
  ];
  const last = (name: string, text: string) => [name, ...columns.map((_, i) => (i === columns.length - 1 ? text : '-'))];
  if (diff !== null) rows.push(last('bytes to move', `${formatBytes(diff.bytes)} (${formatBytes(diff.interNodeBytes)} between nodes)`));
  rows.push(last('gap to the proven bound', gap));
  return textTable(['', ...columns.map((c) => c.name)], rows);
}

/** What the figures were measured on, in words. */
export function measuredOn(trace: RoutingTrace, heldOut: boolean): string {
  return `measured on ${trace.tokens} tokens of ${trace.sequences.length} ${heldOut ? 'held-out ' : ''}sequences`;
}

export function stepTimesBy(measured: DeviceModel | null): string {
  return measured === null
    ? 'step times by an uncalibrated device model (switchyard bench calibrate)'
    : 'step times by the calibrated device';
}
