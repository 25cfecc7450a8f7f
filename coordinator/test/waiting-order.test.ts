import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { takeNext, type WaitingText } from '../src/tokenizing/waiting-order.ts';

const text = (chars: number): WaitingText => ({ chars, overtakenChars: 0 });

describe('texts that wait to be tokenised', () => {
  it('are taken shortest first, those of one length as they came', () => {
    const [a, b, c, d] = [text(5), text(3), text(9), text(3)];
    const waiting = [a, b, c, d];
    expect([1, 2, 3, 4, 5].map(() => takeNext(waiting, 4))).toEqual([b, d, a, c, null]);
  });

  it('are not starved: a long one comes after so many times its length of shorter ones, however many of those come', () => {
    const long = text(100);
    const waiting = [long];
    let passed = 0;
    for (let round = 0; round < 100 && waiting.includes(long); round++) {
      waiting.push(text(10), text(10));
      const taken = takeNext(waiting, 4)!;
      if (taken !== long) passed += taken.chars;
    }
    expect(passed).toBe(400);
  });

  it('wait for those ahead of them and a bounded amount of text that came later, in any order of arrival', () => {
    const arrivals = fc.array(fc.array(fc.integer({ min: 1, max: 50 }), { maxLength: 4 }), { maxLength: 60 });
    fc.assert(
      fc.property(arrivals, fc.integer({ min: 1, max: 5 }), (rounds, overtakingMax) => {
        const waiting: WaitingText[] = [];
        for (const chars of [...rounds, ...Array<number[]>(240).fill([])]) {
          waiting.push(...chars.map(text));
          takeNext(waiting, overtakingMax);
          // The last to overtake is shorter than the text.
          for (const { chars: own, overtakenChars } of waiting) expect(overtakenChars).toBeLessThan((overtakingMax + 1) * own);
        }
        expect(waiting).toEqual([]);
      }),
    );
  });
});
