import { SwitchyardError } from '@switchyard/proto';
import { expNonPositive } from './exponential.ts';

/** Index of the largest of `count` logits from `offset` on; ties go to the lower index. Throws `internal` for a NaN, and when the largest is not finite. */
export function argmax(logits: Float32Array, offset: number, count: number): number {
  let best = -1;
  let bestValue = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < count; i++) {
    const value = logits[offset + i];
    // Greater, or no number.
    if (!(value <= bestValue)) {
      if (Number.isNaN(value)) throw notANumber(i);
      bestValue = value;
      best = i;
    }
  }
  if (!Number.isFinite(bestValue)) throw noNumber(count, bestValue);
  return best;
}

/** The same for adjusted logits. Written twice because a loop over one element type is twice as fast as one over two. */
export function argmaxAdjusted(adjusted: Float64Array): number {
  let best = -1;
  let bestValue = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < adjusted.length; i++) {
    const value = adjusted[i];
    if (!(value <= bestValue)) {
      if (Number.isNaN(value)) throw notANumber(i);
      bestValue = value;
      best = i;
    }
  }
  if (!Number.isFinite(bestValue)) throw noNumber(adjusted.length, bestValue);
  return best;
}

function notANumber(token: number): SwitchyardError {
  return new SwitchyardError('internal', `the logit of token ${token} is not a number: weights or cache are corrupt`);
}

function noNumber(count: number, largest: number): SwitchyardError {
  return new SwitchyardError('internal', `the largest of ${count} logits is ${largest}: weights or cache are corrupt`);
}

/**
 * log of the sum of exp over a row of raw logits, in float64, terms added in ascending token id: one order for every path, so that a token's logprob has the same
 * bits whether the token was decoded, streamed, or given as a prompt.
 */
export function logSumExp(logits: Float32Array, offset: number, count: number): number {
  const max = logits[offset + argmax(logits, offset, count)];
  let sum = 0;
  for (let i = 0; i < count; i++) sum += expNonPositive(logits[offset + i] - max);
  return max + Math.log(sum);
}

/** The `wanted` most likely tokens in descending logit, ties to the lower id: one pass with a sorted list of at most `wanted` entries (limits.topLogprobsMax). */
export function topTokens(logits: Float32Array, offset: number, count: number, wanted: number): number[] {
  const tokens: number[] = [];
  let floor = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < count; i++) {
    const value = logits[offset + i];
    if (tokens.length === wanted && !(value > floor)) continue;
    let at = tokens.length;
    while (at > 0 && logits[offset + tokens[at - 1]] < value) at--;
    tokens.splice(at, 0, i);
    if (tokens.length > wanted) tokens.pop();
    if (tokens.length === wanted) floor = logits[offset + tokens[wanted - 1]];
  }
  return tokens;
}
