import type { Observation } from './observation.ts';

export interface Difference {
  sameTokens: boolean;
  /** Every log-probability, chosen and alternative, equal bit for bit (and the tokens too). */
  sameLogprobs: boolean;
  tokens: number;
  /** Over the tokens before the first that differs, whose contexts are the same; null where there are none. */
  largestLogprobDifference: number | null;
  /** Index of the first token at which anything differs, or null. */
  firstAt: number | null;
}

/** Compares what two clients read. Pure. */
export function compareObservations(expected: Observation, actual: Observation): Difference {
  const tokens = Math.min(expected.tokens.length, actual.tokens.length);
  const sameToken = (i: number) =>
    expected.ids && actual.ids ? expected.ids[i] === actual.ids[i] : expected.tokens[i] === actual.tokens[i];
  let sameTokens = expected.tokens.length === actual.tokens.length;
  let firstAt: number | null = null;
  let largest: number | null = null;
  for (let i = 0; i < tokens; i++) {
    const same = sameToken(i);
    const sameBits = Object.is(expected.logprobs[i], actual.logprobs[i]) && expected.alternatives[i] === actual.alternatives[i];
    if (firstAt === null && !(same && sameBits)) firstAt = i;
    if (!same) {
      sameTokens = false;
      break;
    }
    largest = Math.max(largest ?? 0, Math.abs(expected.logprobs[i] - actual.logprobs[i]));
  }
  if (!sameTokens) firstAt ??= tokens;
  return { sameTokens, sameLogprobs: firstAt === null, tokens: expected.tokens.length, largestLogprobDifference: largest, firstAt };
}
