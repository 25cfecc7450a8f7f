/** The largest difference between logits, in standard deviations of the expected ones. */
export interface LogitDifference {
  /** max |got - expected| / std(expected); Infinity if any logit is not finite. */
  relative: number;
  /** Where it is. */
  position: number;
  token: number;
}

export function compareLogits(got: Float32Array, expected: Float32Array, vocab: number): LogitDifference {
  let largest = 0;
  let at = 0;
  for (let i = 0; i < expected.length; i++) {
    const difference = Math.abs(got[i]! - expected[i]!);
    // NaN compares false with everything: it counts as the largest of all.
    if (difference <= largest) continue;
    at = i;
    largest = Number.isNaN(difference) ? Number.POSITIVE_INFINITY : difference;
    if (largest === Number.POSITIVE_INFINITY) break;
  }
  return { relative: largest / standardDeviation(expected), position: Math.floor(at / vocab), token: at % vocab };
}

function standardDeviation(values: Float32Array): number {
  let sum = 0;
  for (const v of values) sum += v;
  const mean = sum / values.length;
  let squares = 0;
  for (const v of values) squares += (v - mean) ** 2;
  return Math.sqrt(squares / values.length);
}

/** Index of the first element whose bits differ, or -1. */
export function firstDifferentBit(a: Float32Array, b: Float32Array): number {
  if (a.length !== b.length) return Math.min(a.length, b.length);
  const x = new Int32Array(a.buffer, a.byteOffset, a.length);
  const y = new Int32Array(b.buffer, b.byteOffset, b.length);
  return x.findIndex((bits, i) => bits !== y[i]);
}

/** Index of the first unequal element, or -1. */
export function firstDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  for (let i = 0; i < Math.max(a.length, b.length); i++) if (a[i] !== b[i]) return i;
  return -1;
}
