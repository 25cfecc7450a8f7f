import { describe, expect, test } from 'vitest';
import { Counters } from '../../src/engine/counters.ts';
import { HitRates } from '../../src/engine/hit-rates.ts';
import { Sequence } from '../../src/engine/sequence.ts';
import { Residency } from '../../src/kv/residency.ts';
import { submitOf } from '../in-process-cluster.ts';

const BLOCK = 4;

function cacheOf(prefixCache = true) {
  const residency = new Residency(64, BLOCK, prefixCache, new Counters(1, 1));
  const hitRates = HitRates.ofWorker();
  const sequenceOf = (prompt: number[], wishes: Parameters<typeof submitOf>[1] = {}, scope = 'a') =>
    new Sequence(submitOf(prompt, wishes), scope, 0, residency.pool, hitRates);
  /** Admits it, if need be, and computes it up to there. */
  const compute = (sequence: Sequence, tokens: number) => {
    if (sequence.blockCount === 0) expect(residency.admit(sequence)).toBe(true);
    sequence.scheduled = tokens;
    sequence.computed = tokens;
    residency.publish(sequence);
  };
  return { residency, sequenceOf, compute };
}

/** Common to all, and the rest of one. */
const common = Array.from({ length: 12 }, (_, i) => 100 + i);
const promptOf = (rest: number) => [...common, rest, rest, rest];

describe('admission of a sequence whose beginning is being computed', () => {
  test('waits for each block of the beginning, and finds all of it', () => {
    const { residency, sequenceOf, compute } = cacheOf();
    const [leader, follower] = [sequenceOf(promptOf(1)), sequenceOf(promptOf(2))];
    for (const computed of [0, 3, 4, 7, 8, 11]) {
      compute(leader, computed);
      expect(residency.admissionRule(follower, [leader]), `${computed} computed`).toBeNull();
    }
    compute(leader, 12);
    expect(residency.admissionRule(follower, [leader])).toEqual({ blocks: 1, cached: 12 });
    // Of one that is not even admitted, only chosen to be, too.
    expect(residency.admissionRule(sequenceOf([7, ...promptOf(3)]), [leader, sequenceOf([7, ...promptOf(4)])])).toBeNull();
  });

  test("waits for nobody who computes nothing, is about to end, needs all logits, or is somebody else's", () => {
    const { residency, sequenceOf, compute } = cacheOf();
    const leader = sequenceOf(promptOf(1));
    compute(leader, 4);
    const follower = sequenceOf(promptOf(2));
    const goesOn = { blocks: 3, cached: 4 };
    expect(residency.admissionRule(follower, [leader])).toBeNull();
    expect(residency.admissionRule(follower, [])).toMatchObject(goesOn);
    expect(residency.admissionRule(follower, [leader])).toBeNull();
    leader.cancelled = true;
    expect(residency.admissionRule(follower, [leader])).toMatchObject(goesOn);
    const judged = sequenceOf(promptOf(3), { promptLogprobs: true });
    compute(judged, 4);
    expect(residency.admissionRule(follower, [judged])).toMatchObject(goesOn);
    const foreign = sequenceOf(promptOf(4), {}, 'b');
    compute(foreign, 4);
    expect(residency.admissionRule(follower, [foreign])).toMatchObject(goesOn);
    const other = sequenceOf([...common.slice(0, 7), 5, 5, 5]);
    compute(other, 4);
    expect(residency.admissionRule(follower, [other])).toMatchObject(goesOn);
  });

  test('goes on where the leader has let go of its blocks', () => {
    const { residency, sequenceOf, compute } = cacheOf();
    const [leader, follower] = [sequenceOf(promptOf(1)), sequenceOf(promptOf(2))];
    compute(leader, 6);
    expect(residency.admissionRule(follower, [leader])).toBeNull();
    expect(follower.waitsFor!.isToCome).toBe(true);
    leader.releaseBlocks();
    expect(follower.waitsFor!.isToCome).toBe(false);
    expect(residency.admissionRule(follower, [])).toEqual({ blocks: 4, cached: 4 });
  });

  test('is not looked up again before the block is there', () => {
    const { residency, sequenceOf, compute } = cacheOf();
    const [leader, follower] = [sequenceOf(promptOf(1)), sequenceOf(promptOf(2))];
    compute(leader, 4);
    expect(residency.admissionRule(follower, [leader])).toBeNull();
    // Nobody looks at its tokens meanwhile.
    const { tokens } = follower;
    Object.defineProperty(follower, 'tokens', {
      configurable: true,
      get() {
        throw new Error('looked up');
      },
    });
    compute(leader, 7);
    expect(residency.admissionRule(follower, [leader])).toBeNull();
    Object.defineProperty(follower, 'tokens', { value: tokens });
    expect(follower.waitsFor!.isToCome).toBe(true);
    compute(leader, 8);
    // It does not wait for it any longer, asked or not.
    expect(follower.waitsFor!.isToCome).toBe(false);
    expect(residency.admissionRule(follower, [leader])).toBeNull();
  });

  test('becomes shorter by what the leader has computed since, asked or not', () => {
    const { residency, sequenceOf, compute } = cacheOf();
    const [leader, follower] = [sequenceOf(promptOf(1)), sequenceOf(promptOf(2))];
    compute(leader, 4);
    expect(residency.admissionRule(follower, [leader])).toBeNull();
    expect([follower.likelyCached, follower.awaitsPrefix]).toEqual([4, true]);
    compute(leader, 11);
    expect([follower.likelyCached, follower.awaitsPrefix]).toEqual([8, false]);
    compute(leader, leader.length);
    expect(follower.likelyCached).toBe(12);
    expect(residency.admissionRule(follower, [])).toMatchObject({ cached: 12 });
  });

  test('waits for nobody without a prefix cache', () => {
    const { residency, sequenceOf, compute } = cacheOf(false);
    const leader = sequenceOf(promptOf(1));
    compute(leader, 4);
    expect(residency.admissionRule(sequenceOf(promptOf(2)), [leader])).toEqual({ blocks: 4, cached: 0 });
  });
});
