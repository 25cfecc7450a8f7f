import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { findRepetition, MATCH_MAX, MATCH_MIN, type Repetition } from '../../src/engine/prompt-lookup.ts';

/** Every earlier place is looked at, the latest first. */
function slowly(tokens: readonly number[]): Repetition | null {
  let best: Repetition | null = null;
  for (let next = tokens.length - 1; next >= 1; next--) {
    let match = 0;
    while (match < MATCH_MAX && match < next && tokens[next - 1 - match] === tokens[tokens.length - 1 - match]) match++;
    if (match >= MATCH_MIN && match > (best?.match ?? 0)) best = { next, match };
  }
  return best;
}

const find = (tokens: readonly number[]) => findRepetition(Int32Array.from(tokens), tokens.length);

describe('findRepetition', () => {
  test('finds the longest, of equally long ones the latest', () => {
    expect(find([1, 2, 9, 1, 2, 8, 1, 2])).toEqual({ next: 5, match: 2 });
    expect(find([7, 1, 2, 9, 1, 2, 8, 7, 1, 2])).toEqual({ next: 3, match: 3 });
    expect(find([4, 4, 4, 4, 4, 4])).toEqual({ next: 5, match: 4 });
    expect(find([1, 2, 3, 2])).toBeNull();
    expect(find([5])).toBeNull();
    expect(find([5, 5])).toBeNull();
  });

  test('is what looking at every place gives, whatever stands behind the known tokens', () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 0, max: 3 }), { maxLength: 60 }),
        fc.array(fc.integer({ min: 0, max: 3 })),
        (tokens, behind) => {
          expect(findRepetition(Int32Array.from([...tokens, ...behind]), tokens.length)).toEqual(slowly(tokens));
        },
      ),
    );
  });

  test('looks back a bounded way', () => {
    const far = [1, 2, 3, ...Array.from({ length: 8192 }, () => 0), 1, 2];
    expect(find(far)).toBeNull();
    expect(find(far.slice(0, 3).concat(far.slice(10)))).toEqual({ next: 2, match: 2 });
  });
});
