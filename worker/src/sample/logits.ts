import { SwitchyardError } from '@switchyard/proto';
import { sumOfExps } from './exponential.ts';
import { Selection } from './selection.ts';

// Rows come as float64: a copy that costs a thirtieth of what is then saved. To read a float32 into a double register waits for whatever that register held before,
// and whether the loop is two or four times as slow for it is up to the compiler's choice of registers. Four entries at a time fail one test together.

/** Index of the largest of a row of logits; ties go to the lower index. Throws `internal` for a NaN, and when the largest is not finite. */
export function argmax(row: Float64Array): number {
  const best = largestOf(row);
  if (Number.isNaN(row[best])) throw notANumber(best);
  if (best < 0 || row[best] === Number.POSITIVE_INFINITY) throw noNumber(row.length, row[best] ?? Number.NEGATIVE_INFINITY);
  return best;
}

/** Index of the first NaN, else of the first of the largest; -1 where nothing is above -Infinity. Nothing but the loop, which the compiler enters half way. */
function largestOf(row: Float64Array): number {
  let best = -1;
  let bestValue = Number.NEGATIVE_INFINITY;
  const whole = row.length - 3;
  for (let i = 0; i < row.length; i++) {
    while (i < whole && row[i] <= bestValue && row[i + 1] <= bestValue && row[i + 2] <= bestValue && row[i + 3] <= bestValue) i += 4;
    if (i === row.length || row[i] <= bestValue) continue;
    best = i;
    bestValue = row[i];
    if (Number.isNaN(bestValue)) return i;
  }
  return best;
}

function notANumber(token: number): SwitchyardError {
  return new SwitchyardError('internal', `the logit of token ${token} is not a number: weights or cache are corrupt`);
}

function noNumber(count: number, largest: number): SwitchyardError {
  return new SwitchyardError('internal', `the largest of ${count} logits is ${largest}: weights or cache are corrupt`);
}

/**
 * log of the sum of exp over a row of raw logits whose largest is `max`, in float64, terms added in ascending token id: one order for every path, so that a token's
 * logprob has the same bits whether the token was decoded, streamed, or given as a prompt.
 */
export function logSumExp(row: Float64Array, max: number): number {
  return max + Math.log(sumOfExps(row, max, 1));
}

/** A row in no order has a few hundred tokens that are the most likely so far; of one that rises nearly each is, and its place in the list has to be made. */
const INSERTIONS_MAX = 4096;

/**
 * The `wanted` most likely tokens in descending logit, ties to the lower id: one pass with a sorted list of at most `wanted` entries, which should be few. A row for
 * which that would take long is passed again, with buckets.
 */
export function topTokens(row: Float64Array, wanted: number): number[] {
  const tokens: number[] = [];
  if (wanted === 0) return tokens;
  const first = Math.min(wanted, row.length);
  for (let i = 0; i < first; i++) insert(tokens, row, i);
  let floor = row[tokens[first - 1]];
  const whole = row.length - 3;
  let insertions = 0;
  for (let i = first; i < row.length; i++) {
    while (i < whole && row[i] <= floor && row[i + 1] <= floor && row[i + 2] <= floor && row[i + 3] <= floor) i += 4;
    if (i === row.length || row[i] <= floor) continue;
    if (++insertions > INSERTIONS_MAX) return selected(row, wanted);
    tokens.pop();
    insert(tokens, row, i);
    floor = row[tokens[first - 1]];
  }
  return tokens;
}

function selected(row: Float64Array, wanted: number): number[] {
  const tokens = new Int32Array(wanted);
  new Selection(row.length).keepLargest(row, row[largestOf(row)], wanted, tokens);
  return Array.from(tokens).sort((a, b) => row[b] - row[a] || a - b);
}

/** Puts the token behind all that are as likely. */
function insert(tokens: number[], row: Float64Array, token: number): void {
  let at = tokens.length;
  while (at > 0 && row[tokens[at - 1]] < row[token]) at--;
  tokens.splice(at, 0, token);
}
