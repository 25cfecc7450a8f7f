import type { Robustness } from '@switchyard/placement';
import { InvalidArgumentError } from 'commander';

/** "25%" or "0.25" -> 0.25. */
export function share(text: string): number {
  const match = /^(\d+(?:\.\d+)?)(%?)$/.exec(text.trim());
  if (!match) throw new InvalidArgumentError('It must be a share like 25% or 0.25.');
  return Number(match[1]) / (match[2] === '%' ? 100 : 1);
}

/** A share of which something must be left. */
export function partialShare(text: string): number {
  const value = share(text);
  if (value >= 1) throw new InvalidArgumentError('It must be a share below 100%.');
  return value;
}

export function shares(text: string): number[] {
  return text.split(',').map(share);
}

/** "30s", "2m", "500ms" -> milliseconds. */
export function duration(text: string): number {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h)$/.exec(text.trim());
  if (!match) throw new InvalidArgumentError('It must be a time like 500ms, 30s or 2m.');
  return Number(match[1]) * { ms: 1, s: 1000, m: 60_000, h: 3_600_000 }[match[2] as 'ms' | 's' | 'm' | 'h'];
}

/** Searches take no smaller one. */
const cvarShareMin = 1e-6;

/** "mean", "worst", "cvar:20%". */
export function robustness(text: string): Robustness {
  if (text === 'mean' || text === 'worst') return { kind: text };
  const match = /^cvar:(.+)$/.exec(text);
  const part = match ? share(match[1]) : Number.NaN;
  if (!(part >= cvarShareMin && part <= 1)) throw new InvalidArgumentError('It must be mean, worst or cvar:20%.');
  return { kind: 'cvar', share: part };
}

/** Shape of a dump of expert ids, which does not say it itself. */
export interface IdShape {
  layers: number;
  topK: number;
  experts: number;
}

/** Where groups of experts may live: "free", "whole" (as many groups as the trace says), or whole with their number. */
export type GroupRule = 'free' | 'whole' | number;

export function groupRule(text: string): GroupRule {
  if (text === 'free' || text === 'whole') return text;
  const count = Number(text);
  if (!Number.isInteger(count) || count < 2) throw new InvalidArgumentError('It must be free, whole, or the number of groups of a layer.');
  return count;
}

/** "24x4x32" -> MoE layers, choices of a token in a layer, experts of a layer. */
export function idShape(text: string): IdShape {
  const [, layers, topK, experts] = /^(\d+)x(\d+)x(\d+)$/.exec(text.trim()) ?? [];
  if (experts === undefined) throw new InvalidArgumentError('It must be layers x top-k x experts, like 24x4x32.');
  return { layers: Number(layers), topK: Number(topK), experts: Number(experts) };
}

export const modelDirHelp =
  'checkpoint that the trace is of: its type, layers and number of experts, which formats other than our own do not say in full';

/** "windows=5" -> layers per window of the chain proof. */
export function windowWidth(text: string): number {
  const width = Number(/^windows=(\d+)$/.exec(text.trim())?.[1]);
  if (!(width >= 2 && width <= 16)) throw new InvalidArgumentError('It must be windows=N, N layers from 2 to 16.');
  return width;
}
