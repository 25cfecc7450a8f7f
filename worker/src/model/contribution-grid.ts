import type { NumericClass } from './contract.ts';

/**
 * The grid of a layer's exact sum. Expert contributions are rounded once to multiples of 2^grid and added as integers, so their order cannot matter.
 *
 * The grid comes from the checkpoint alone (never from what a worker hosts, for all workers must agree): a few experts of the layer are run on rows that
 * look like the output of the norm before it, and the root mean square of what the middle one answers, times a typical routing weight, is the size of a
 * contribution: one expert that was pruned, or that is far larger than the rest, decides nothing. Below it stay `fractionBits` bits:
 *   f32  24: a contribution of typical size keeps all its bits, as an f32 sum would.
 *   bf16 10: a contribution moves by 2^-11 of the typical size at most, a quarter of what rounding an expert's inputs to bf16 costs.
 *
 * Measured on the bundled model's held-out text (54,205 tokens; perplexity of novels, plays, speeches, scripture, code; questions right of 120; share of
 * rows whose sum over a quarter of the experts fits 16 bits on the wire, layers 1 to 5; layer 0, with its outliers, 47 to 81 %):
 *   f32      50.65 43.49 46.58 22.95 18.44  92
 *   bf16  8  50.66 43.48 46.57 22.95 18.44       96-100 %
 *   bf16 10  50.66 43.48 46.58 22.95 18.44  92   72-100 %, 92 % on average
 *   bf16 12  50.66 43.49 46.57 22.95 18.44  92   21-87 %
 */
export const fractionBits: Readonly<Record<NumericClass['activations'], number>> = { f32: 24, bf16: 10 };

/** Kernels accept exponents to ±120; a checkpoint whose experts answer beyond that range overflows f32 anyway. */
const gridMax = 120;

/** Rows put through each of the experts that are probed. */
export const probeRows = 4;

/** The experts of a layer whose answers are measured: the first, the middle and the last. */
export function probedExperts(experts: number): number[] {
  return [...new Set([0, experts >> 1, experts - 1])];
}

/** The middle of the sizes that are not 0, the smaller of two; 0 where all are. */
export function typicalSize(sizes: readonly number[]): number {
  const found = sizes.filter((size) => size > 0).sort((a, b) => a - b);
  return found[(found.length - 1) >> 1] ?? 0;
}

/** Exponent of the grid for contributions whose root mean square is `rms`. Experts that answer nothing get the grid of size 1. */
export function gridExponent(rms: number, activations: NumericClass['activations']): number {
  const size = rms > 0 ? Math.floor(Math.log2(rms)) : 0;
  return Math.min(Math.max(size - fractionBits[activations], -gridMax), gridMax);
}

/**
 * Rows (probeRows, hidden) of the size that a norm writes: its weight with pseudo-random signs. The signs are those of xorshift32 from a fixed seed, the
 * same on every machine.
 */
export function probeInput(normWeight: Float32Array, plus: number): Float32Array {
  const hidden = normWeight.length;
  const x = new Float32Array(probeRows * hidden);
  let state = 0x9e3779b9;
  for (let i = 0; i < x.length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    x[i] = (normWeight[i % hidden]! + plus) * (state < 0 ? -1 : 1);
  }
  return x;
}

/** NaN where any value is. */
export function rootMeanSquare(values: Float32Array): number {
  let sum = 0;
  for (const v of values) sum += v * v;
  return Math.sqrt(sum / values.length);
}
