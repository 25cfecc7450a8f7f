import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Draft } from '../../src/engine/draft.ts';
import { type Draftable, decideDrafts } from '../../src/engine/drafting.ts';
import { HitRates } from '../../src/engine/hit-rates.ts';
import { decideStep } from '../../src/engine/schedule.ts';

const linear = (fixedMs: number, rowMs: number) => ({ rowMs, ms: (rows: number) => fixedMs + rows * rowMs });
const stream = (chance: number, guesses = 8): Draftable => ({ guesses, chance, proposed: -1 });

function decided(streams: Draftable[], fixedMs: number, rowMs: number, rowsFree = 1000): number[] {
  decideDrafts(streams, rowsFree, linear(fixedMs, rowMs));
  return streams.map(({ proposed }) => proposed);
}

/** Tokens that are to be expected of a step. */
const expected = (streams: readonly Draftable[]) =>
  streams.reduce((sum, { chance, proposed }) => {
    for (let j = 0; j <= proposed; j++) sum += chance ** j;
    return sum;
  }, 0);

describe('decideDrafts', () => {
  test('guesses where round trips are what a step takes, and not where rows are', () => {
    expect(decided([stream(0.9)], 30, 0.5)).toEqual([8]);
    expect(decided([stream(0.7)], 2, 8)).toEqual([0]);
    expect(decided([stream(0.05)], 10, 1)).toEqual([0]);
  });

  test('guesses less the more streams there are: they share already what guesses would', () => {
    const many = (count: number) =>
      decided(
        Array.from({ length: count }, () => stream(0.5)),
        10,
        1,
      );
    expect(many(1)).toEqual([2]);
    expect(many(4)).toEqual([1, 1, 1, 1]);
    expect(Math.max(...many(32))).toBe(0);
  });

  test('takes no more than a step has rows for, and so the likeliest of all', () => {
    expect(decided([stream(0.5), stream(0.9)], 30, 0.1, 0)).toEqual([0, 0]);
    const drafts = [stream(0.6), stream(0.9)];
    expect(decided(drafts, 30, 0.1, 6)).toEqual([1, 5]);
    const running = drafts.map(({ proposed }) => {
      const place = {
        length: 9,
        scheduled: 8,
        inFlight: 0,
        blockCount: 5,
        exclusiveBlocks: 5,
        everyLogit: false,
        ending: false,
        likelyCached: 0,
        awaitsPrefix: false,
        overtaken: 0,
      };
      return { ...place, proposed };
    });
    const out = { rows: new Int32Array(4), preempted: new Uint8Array(2), admitted: 0, admittedAt: new Int32Array(2) };
    const bounds = { rows: 8, sequences: 2, logitRows: 8, blockTokens: 4, watermarkBlocks: 1, othersWait: false };
    decideStep('decode', running, [], 9, bounds, () => ({ blocks: 0, cached: 0 }), out);
    expect([...out.rows.slice(0, 2)]).toEqual([2, 6]);
  });

  test('takes the likeliest first, whoever came first', () => {
    fc.assert(
      fc.property(
        fc.array(fc.record({ chance: fc.double({ min: 0, max: 1, noNaN: true }), guesses: fc.nat({ max: 8 }) }), { maxLength: 40 }),
        fc.double({ min: 0, max: 100, noNaN: true }),
        fc.nat({ max: 100 }),
        (list, fixedMs, rowsFree) => {
          const counts = decided(
            list.map(({ chance, guesses }) => stream(chance, guesses)),
            fixedMs,
            1,
            rowsFree,
          );
          expect(counts.reduce((a, b) => a + b, 0)).toBeLessThanOrEqual(rowsFree);
          const taken = list.flatMap(({ chance }, i) => (counts[i] > 0 ? [chance ** counts[i]] : []));
          const left = list.flatMap(({ chance, guesses }, i) => (counts[i] < guesses ? [chance ** (counts[i] + 1)] : []));
          expect(Math.min(1, ...taken)).toBeGreaterThanOrEqual(Math.max(0, ...left) - 1e-9);
        },
      ),
    );
  });

  test('takes all guesses before anything has been measured, and none of a stream without', () => {
    expect(decided([stream(0.5, 3), stream(0, 0)], 0, 0)).toEqual([0, 0]);
    expect(decided([stream(0.5, 3), stream(0.9, 0)], 5, 0)).toEqual([3, 0]);
  });

  test('never expects fewer tokens per millisecond than without guesses', () => {
    fc.assert(
      fc.property(
        fc.array(fc.record({ chance: fc.double({ min: 0, max: 1, noNaN: true }), guesses: fc.nat({ max: 8 }) }), {
          minLength: 1,
          maxLength: 40,
        }),
        fc.double({ min: 0, max: 100, noNaN: true }),
        fc.double({ min: 1e-3, max: 100, noNaN: true }),
        (list, fixedMs, rowMs) => {
          const streams = list.map(({ chance, guesses }) => stream(chance, guesses));
          const counts = decided(streams, fixedMs, rowMs);
          const cost = linear(fixedMs, rowMs);
          for (const [i, count] of counts.entries()) expect(count >= 0 && count <= list[i].guesses).toBe(true);
          const rows = streams.length + counts.reduce((a, b) => a + b, 0);
          expect(expected(streams) / cost.ms(rows)).toBeGreaterThanOrEqual((streams.length / cost.ms(streams.length)) * (1 - 1e-9));
        },
      ),
    );
  });
});

describe('Draft', () => {
  const text = (tokens: number[], room = 8) => Int32Array.from([...tokens, ...new Array(room).fill(-1)]);

  test('guesses what followed before, on into its own guesses', () => {
    const draft = new Draft(new HitRates(0.998), null);
    const tokens = text([5, 1, 2, 3, 1, 2]);
    draft.make(tokens, 6, 7);
    expect(draft.guesses).toBe(7);
    expect([...tokens.subarray(6)]).toEqual([3, 1, 2, 3, 1, 2, 3, -1]);
    draft.make(text([1, 2, 3]), 3, 4);
    expect(draft.guesses).toBe(0);
  });

  test('is surer of itself the more often it was right, each length of match by itself', () => {
    const draft = new Draft(new HitRates(0.998), null);
    const once = text([1, 2, 9, 1, 2]);
    draft.make(once, 5, 1);
    const before = draft.chance;
    draft.judge(false);
    draft.make(once, 5, 1);
    expect(draft.chance).toBeLessThan(before);
    const long = text([7, 1, 2, 9, 7, 1, 2]);
    draft.make(long, 7, 1);
    expect(draft.chance).toBe(before);
    for (let i = 0; i < 20; i++) {
      draft.judge(true);
      draft.make(long, 7, 1);
    }
    expect(draft.chance).toBeGreaterThan(0.9);
  });

  test('lets the rest stand after a right guess and drops it after a wrong one', () => {
    const draft = new Draft(new HitRates(0.998), null);
    draft.make(text([4, 4, 4]), 3, 3);
    draft.judge(true);
    expect(draft.guesses).toBe(2);
    draft.judge(false);
    expect(draft.guesses).toBe(0);
    const { chance } = draft;
    draft.judge(false);
    expect(draft.chance).toBe(chance);
  });

  describe('beside those of other streams', () => {
    const repeating = text([7, 1, 2, 9, 7, 1, 2]);
    const guessed = (all: HitRates, times: number, right: boolean) => {
      const draft = new Draft(all, null);
      for (let i = 0; i < times; i++) {
        draft.make(repeating, 7, 1);
        draft.judge(right);
      }
      draft.make(repeating, 7, 1);
      return draft.chance;
    };

    test('begins with what theirs have come to, and soon goes by its own', () => {
      const all = new HitRates(0.998);
      expect(guessed(all, 0, true)).toBeCloseTo(1 / 3);
      guessed(all, 60, true);
      expect(guessed(all, 0, true)).toBeGreaterThan(0.9);
      expect(guessed(all, 4, false)).toBeLessThan(0.5);
      // Two of another kind do not turn what many have taught.
      expect(guessed(all, 0, true)).toBeGreaterThan(0.9);
    });

    test('however often all were wrong, a few right ones make a stream sure, and many the worker, without a row for them', () => {
      const all = new HitRates(0.998);
      guessed(all, 5000, false);
      expect(guessed(all, 0, true)).toBeLessThan(0.01);
      expect(guessed(all, 4, true)).toBeGreaterThan(0.5);
      for (let stream = 0; stream < 100; stream++) guessed(all, 10, true);
      expect(guessed(all, 0, true)).toBeGreaterThan(0.7);
    });

    test('learns of each length of match by itself', () => {
      const all = new HitRates(0.998);
      guessed(all, 60, true);
      const short = new Draft(all, null);
      short.make(text([1, 2, 9, 1, 2]), 5, 1);
      expect(short.chance).toBeCloseTo(1 / 3);
    });
  });
});
