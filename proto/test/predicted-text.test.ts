import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { PredictedText } from '../src/index.ts';

/** What was expected before each token of the answer (-1: nothing), and how many of them came. */
function follow(prediction: readonly number[], answer: readonly number[]) {
  const text = new PredictedText(Int32Array.from(prediction));
  const before = answer.map((token) => {
    const [expected = -1] = text.expected(1);
    text.push(token);
    return expected;
  });
  return { before, met: text.met, text };
}

const range = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i);

describe('a predicted text', () => {
  it('is one for all who follow it', () => {
    const tokens = Int32Array.from(range(0, 9));
    expect(new PredictedText(tokens).expected(2).buffer).toBe(tokens.buffer);
  });

  it('that comes as it is expected is expected to its end', () => {
    fc.assert(
      fc.property(fc.array(fc.nat({ max: 5 }), { maxLength: 200 }), (tokens) => {
        const { before, met, text } = follow(tokens, tokens);
        expect([before, met]).toEqual([tokens, tokens.length]);
        expect(text.expected(8)).toHaveLength(0);
      }),
    );
  });

  it.each([
    ['one token behind a few that were changed', 1, [...range(0, 50), 900, 901, ...range(52, 100)]],
    ['one token behind a few that were left out', 1, [...range(0, 50), ...range(54, 100)]],
    ['one token behind as many as there are that were added', 1, [...range(0, 50), ...range(900, 990), ...range(50, 100)]],
    ['two tokens behind a passage that was left out', 2, [...range(0, 50), ...range(60, 110)]],
  ])('is found again %s', (_, behind, answer) => {
    const again = answer.findLastIndex((token, i) => token !== answer[i - 1] + 1) + behind;
    const { before, met } = follow(range(0, 200), answer);
    expect(before.slice(again)).toEqual(answer.slice(again));
    expect(met).toBe(50 + answer.length - again);
  });

  it('goes on where the answer was last as expected, not where it reads alike', () => {
    // Seven lines that end alike.
    const lines = range(0, 7).flatMap((line) => [10 + line, 20 + line, 1, 2]);
    const answer = [...lines.slice(0, 13), 99, 1, 2, 14];
    expect(follow(lines, answer).before.slice(-1)).toEqual([14]);
    // Back to an earlier one, where nothing like it follows.
    expect(follow([5, 6, 7, 8], [5, 6, 7, 8, 5, 6, 7]).before).toEqual([5, 6, 7, 8, -1, -1, 7]);
  });

  it('expects no more than it is asked for', () => {
    const { text } = follow([1, 2, 3, 4, 5], [1]);
    expect(Array.from(text.expected(2))).toEqual([2, 3]);
    expect(Array.from(text.expected(9))).toEqual([2, 3, 4, 5]);
  });

  it('expects of any answer what its plain description says', () => {
    const tokens = fc.array(fc.nat({ max: 3 }), { maxLength: 40 });
    fc.assert(
      fc.property(tokens, tokens, (prediction, answer) => {
        expect(follow(prediction, answer).before).toEqual(answer.map((_, i) => described(prediction, answer.slice(0, i))));
      }),
      { numRuns: 2000 },
    );
  });

  it('does not look beyond its window', () => {
    const far = [...range(0, 100), ...Array<number>(20_000).fill(7), 500, 501, 502];
    expect(follow(far, [...range(0, 100), 500, 501]).text.expected(1)).toHaveLength(0);
  });
});

/** The token that is expected next, from the beginning each time; -1: none. */
function described(prediction: readonly number[], answer: readonly number[]): number {
  let at = 0;
  let anchor = 0;
  for (const [i, token] of answer.entries()) {
    if (prediction[at] === token) {
      anchor = ++at;
      continue;
    }
    const near = prediction.findIndex((expected, j) => j >= anchor && j < anchor + 8 && expected === token);
    const pairs = prediction.flatMap((second, j) => (j > 0 && second === token && prediction[j - 1] === answer[i - 1] ? [j] : []));
    const found = pairs.find((j) => j >= anchor) ?? pairs.findLast((j) => j < anchor);
    if (near >= 0) at = near + 1;
    else at = found === undefined ? prediction.length : found + 1;
  }
  return prediction[at] ?? -1;
}
