import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { LaneWork } from '../../src/engine/lanes.ts';
import {
  type AdmissionRule,
  countOvertaken,
  decideStep,
  OVERTAKEN_MAX,
  type Schedulable,
  type StepDecision,
  type StepLimits,
} from '../../src/engine/schedule.ts';

const limits: StepLimits = { rows: 16, sequences: 4, logitRows: 8, blockTokens: 4, watermarkBlocks: 1, othersWait: false };

function sequence(length: number, scheduled: number, overrides: Partial<Schedulable> = {}): Schedulable {
  const blockCount = overrides.blockCount ?? Math.ceil(length / limits.blockTokens);
  return {
    length,
    scheduled,
    inFlight: 0,
    blockCount,
    exclusiveBlocks: blockCount,
    everyLogit: false,
    proposed: 0,
    ending: false,
    likelyCached: 0,
    awaitsPrefix: false,
    overtaken: 0,
    ...overrides,
  };
}

/** `kept` running sequences stay, for it is always the last ones that go; `rows` are theirs, then those of the waiting ones that `at` says are admitted. */
function decide(running: Schedulable[], waiting: Schedulable[], free: number, work: LaneWork = 'all', bounds = limits) {
  // As the decision before may have left it.
  const rowsBefore = new Int32Array(2 * limits.sequences).fill(7);
  const out: StepDecision = {
    rows: rowsBefore,
    preempted: new Uint8Array(limits.sequences).fill(1),
    admitted: 3,
    admittedAt: new Int32Array(limits.sequences),
  };
  const cost = (s: Schedulable) => ({ blocks: Math.ceil(s.length / limits.blockTokens), cached: s.scheduled });
  decideStep(work, running, waiting, free, bounds, cost, out);
  countOvertaken(running, waiting, out);
  const preempted = [...out.preempted.slice(0, running.length)];
  const gone = preempted.indexOf(1);
  const kept = gone < 0 ? running.length : gone;
  expect(preempted).toEqual(running.map((s, i) => Number(i >= kept && s.inFlight === 0)));
  const at = [...out.admittedAt.slice(0, out.admitted)];
  expect(at).toEqual([...new Set(at)].sort((a, b) => a - b));
  expect(running.filter((_, i) => preempted[i] === 1 && out.rows[i] !== 0)).toEqual([]);
  const rows = [...out.rows.slice(0, kept), ...out.rows.slice(running.length, running.length + out.admitted)];
  return { kept, at, rows };
}

describe('decideStep', () => {
  test('decodes go first, prompts share what is left in order', () => {
    expect(decide([sequence(30, 4), sequence(9, 8), sequence(20, 0)], [], 10)).toEqual({ kept: 3, at: [], rows: [15, 1, 0] });
  });

  test('the last row goes to a stream, else to a prompt, and nobody is admitted without one', () => {
    const two = { ...limits, rows: 2 };
    expect(decide([sequence(9, 8), sequence(5, 4), sequence(5, 4)], [], 9, 'all', two).rows).toEqual([1, 1, 0]);
    expect(decide([sequence(9, 8), sequence(8, 0), sequence(8, 0)], [], 9, 'all', two).rows).toEqual([1, 1, 0]);
    expect(decide([sequence(9, 8), sequence(5, 4)], [sequence(4, 0)], 9, 'all', two)).toEqual({ kept: 2, at: [], rows: [1, 1] });
    const twoLogits = { ...limits, logitRows: 2 };
    expect(decide([sequence(9, 8), sequence(5, 4), sequence(5, 4)], [], 9, 'all', twoLogits).rows).toEqual([1, 1, 0]);
    expect(decide([sequence(9, 8), sequence(5, 4)], [sequence(4, 0)], 9, 'all', twoLogits)).toEqual({ kept: 2, at: [], rows: [1, 1] });
  });

  test('waiting sequences are admitted in order while rows and blocks last', () => {
    expect(decide([sequence(9, 8)], [sequence(6, 0), sequence(12, 0), sequence(5, 0)], 20)).toEqual({
      kept: 1,
      at: [0, 1, 2],
      rows: [1, 6, 4, 5],
    });
    expect(decide([sequence(9, 8)], [sequence(8, 0), sequence(12, 0), sequence(7, 0)], 20)).toEqual({
      kept: 1,
      at: [0, 2],
      rows: [1, 8, 7],
    });
    expect(decide([sequence(9, 8)], [sequence(8, 0), sequence(12, 0)], 3)).toEqual({ kept: 1, at: [0], rows: [1, 8] });
  });

  test('while the first that waits lacks blocks, or the shortest behind it, no longer ones are admitted', () => {
    expect(decide([sequence(9, 8)], [sequence(40, 0), sequence(4, 0)], 10)).toEqual({ kept: 1, at: [], rows: [1] });
    expect(decide([sequence(9, 8)], [sequence(10, 0), sequence(16, 0), sequence(6, 0)], 6, 'all', { ...limits, rows: 32 })).toEqual({
      kept: 1,
      at: [0, 2],
      rows: [1, 10, 6],
    });
  });

  test('of many long ones and a short one that wait, the first and the short one are admitted, and one more for the rows that are left', () => {
    const waiting = [...Array.from({ length: 30 }, () => sequence(10_000, 0)), sequence(5, 0)];
    expect(decide([], waiting, 1_000_000)).toEqual({ kept: 0, at: [0, 1, 30], rows: [8, 3, 5] });
  });

  test('a waiting one that had better not be admitted yet keeps nobody behind it waiting', () => {
    const out: StepDecision = { rows: new Int32Array(8), preempted: new Uint8Array(4), admitted: 0, admittedAt: new Int32Array(4) };
    const waiting = [sequence(8, 0), sequence(7, 0), sequence(6, 0), sequence(5, 0), sequence(4, 0)];
    const notYet = waiting.filter((_, i) => i % 2 === 1);
    decideStep('all', [], waiting, 30, limits, (s) => (notYet.includes(s) ? null : { blocks: 2, cached: 0 }), out);
    expect([out.admitted, ...out.admittedAt.slice(0, 3), ...out.rows.slice(0, 3)]).toEqual([3, 0, 2, 4, 8, 4, 4]);
    // Nor does it take rows from those that run, however short it is, nor leave any unused.
    const running = [sequence(100, 0), sequence(60, 40)];
    decideStep('all', running, [sequence(4, 0)], 30, limits, () => null, out);
    expect([out.admitted, ...out.rows.slice(0, 2)]).toEqual([0, 8, 8]);
    decideStep('all', running.slice(0, 1), [sequence(4, 0)], 30, limits, () => null, out);
    expect([out.admitted, ...out.rows.slice(0, 1)]).toEqual([0, 16]);
  });

  test('whoever decides on an admission is told what is being computed', () => {
    const told: [Schedulable, Schedulable[]][] = [];
    const [away, oldest, next, stream] = [sequence(40, 40, { inFlight: 1 }), sequence(12, 4), sequence(30, 0), sequence(9, 8)];
    const ended = sequence(40, 20, { inFlight: 1, ending: true });
    const waiting = [sequence(6, 0), sequence(5, 0)];
    const out: StepDecision = { rows: new Int32Array(16), preempted: new Uint8Array(8), admitted: 0, admittedAt: new Int32Array(8) };
    const rule: AdmissionRule = (asked, computing) => {
      told.push([asked, [...computing]]);
      return { blocks: 2, cached: 0 };
    };
    decideStep('all', [away, ended, oldest, next, stream], waiting, 90, { ...limits, sequences: 8, rows: 20 }, rule, out);
    expect([...out.rows.slice(0, 7)]).toEqual([0, 0, 8, 0, 1, 6, 5]);
    expect(told.at(-2)).toEqual([waiting[1], [away, oldest]]);
    expect(told.at(-1)).toEqual([waiting[0], [away, oldest, waiting[1]]]);
  });

  test('admission leaves the watermark, unless nothing runs', () => {
    expect(decide([sequence(9, 8)], [sequence(8, 0)], 2).at).toEqual([]);
    expect(decide([], [sequence(8, 0)], 2).at).toEqual([0]);
  });

  test('the youngest is preempted for the oldest, and nobody is admitted then', () => {
    const needy = sequence(9, 8, { blockCount: 2 });
    expect(decide([needy, sequence(5, 4), sequence(5, 4)], [sequence(1, 0)], 0)).toEqual({ kept: 2, at: [], rows: [1, 1] });
    // A prompt as well, however much it leaves.
    expect(decide([needy, sequence(30, 4)], [sequence(1, 0)], 0)).toEqual({ kept: 1, at: [], rows: [1] });
  });

  test('nobody is preempted for blocks that are free, or that nobody needs', () => {
    const needy = sequence(9, 8, { blockCount: 2 });
    expect(decide([needy, sequence(5, 4)], [], 1)).toEqual({ kept: 2, at: [], rows: [1, 1] });
    expect(decide([sequence(9, 8), sequence(5, 4)], [], 0)).toEqual({ kept: 2, at: [], rows: [1, 1] });
  });

  test('one that cannot grow even alone steps back', () => {
    expect(decide([sequence(9, 8, { blockCount: 2 })], [], 0)).toEqual({ kept: 0, at: [], rows: [] });
  });

  test('prompt logprobs take a logit row each, and other prompts stop one row short without one', () => {
    expect(decide([sequence(12, 0, { everyLogit: true }), sequence(6, 0)], [], 9)).toEqual({ kept: 2, at: [], rows: [7, 6] });
    expect(
      decide([sequence(12, 0, { everyLogit: true }), sequence(6, 0), sequence(6, 0)], [], 9, 'all', { ...limits, rows: 32 }).rows,
    ).toEqual([7, 6, 5]);
  });

  test('beside a stream, prompt logprobs take few logit rows a step, for it waits until they are read', () => {
    const judged = (length: number) => sequence(length, 0, { everyLogit: true });
    const wide = { ...limits, logitRows: 32, rows: 32 };
    expect(decide([judged(40)], [], 20, 'all', wide).rows).toEqual([32]);
    expect(decide([sequence(9, 8), judged(40)], [judged(40), sequence(4, 0)], 40, 'all', wide)).toEqual({
      kept: 2,
      at: [0, 1],
      rows: [1, 4, 4, 4],
    });
    expect(decide([sequence(9, 9, { inFlight: 1 }), judged(40)], [], 20, 'prefill', wide).rows).toEqual([0, 8]);
    // What they share is for all of them; other prompts have their own logits, and are no streams.
    expect(decide([sequence(9, 8), judged(40), sequence(4, 0)], [], 40, 'all', wide).rows).toEqual([1, 8, 4]);
    expect(decide([sequence(9, 8)], [judged(40), judged(40)], 40, 'all', wide).rows).toEqual([1, 8]);
    expect(decide([judged(20), sequence(4, 0)], [], 40, 'all', wide).rows).toEqual([20, 4]);
    // Nothing streams, so that a step may judge as many as it has room for: but for one of those who wait.
    for (const work of ['all', 'prefill'] as const) {
      expect(decide([judged(100)], [sequence(4, 0)], 60, work, wide)).toEqual({ kept: 1, at: [0], rows: [28, 4] });
      expect(decide([judged(100)], [sequence(60, 0)], 60, work, { ...wide, rows: 128 }).rows).toEqual([31, 60]);
    }
  });

  test('a long prompt with logprobs leaves half of those few rows to shorter ones, also where it is overdue itself', () => {
    const judged = (length: number, overtaken = 0) => sequence(length, 0, { everyLogit: true, overtaken });
    const wide = { ...limits, logitRows: 32, rows: 32 };
    const stream = sequence(9, 8);
    expect(decide([stream, judged(40), judged(4)], [], 40, 'all', wide).rows).toEqual([1, 4, 4]);
    expect(decide([stream, judged(40)], [judged(4)], 40, 'all', wide)).toEqual({ kept: 2, at: [0], rows: [1, 4, 4] });
    expect(decide([judged(40), judged(4)], [], 40, 'prefill', { ...wide, othersWait: true }).rows).toEqual([4, 4]);
    expect(decide([stream, judged(80)], [judged(40, OVERTAKEN_MAX), judged(3)], 60, 'all', wide).rows).toEqual([1, 4, 2, 2]);
    expect(decide([stream, sequence(80, 0)], [judged(40, OVERTAKEN_MAX), judged(3)], 60, 'all', wide).rows).toEqual([1, 23, 5, 3]);
    // What nobody else has a use for it takes after all.
    expect(decide([stream, judged(40)], [sequence(4, 0)], 40, 'all', wide).rows).toEqual([1, 8, 4]);
    // Nor has a prompt without them any, however many rows it takes.
    expect(decide([stream, judged(200), sequence(90, 0)], [], 400, 'all', wide).rows).toEqual([1, 8, 23]);
  });

  test('the decode lane takes single tokens, the lanes of prompts take chunks, also of a prompt whose last chunk is in a step', () => {
    const running = [sequence(9, 8), sequence(30, 4), sequence(30, 20, { inFlight: 1 }), sequence(9, 9, { inFlight: 1 })];
    expect(decide(running, [sequence(4, 0)], 10, 'decode')).toEqual({ kept: 4, at: [], rows: [1, 0, 0, 0] });
    expect(decide(running.slice(0, 1), [sequence(4, 0)], 10, 'decode')).toEqual({ kept: 1, at: [], rows: [1] });
    expect(decide(running.slice(1), [sequence(11, 0)], 10, 'prefill')).toEqual({ kept: 3, at: [], rows: [8, 8, 0] });
    expect(decide(running.slice(2), [sequence(4, 0)], 10, 'prefill')).toEqual({ kept: 2, at: [0], rows: [10, 0, 4] });
  });

  test('a prompt leaves half of the rows to shorter ones, running or waiting, and takes what they leave', () => {
    const others = [sequence(60, 0), sequence(30, 10), sequence(9, 0)];
    // The last is done; what is left goes to the next shortest.
    expect(decide(others, [], 9).rows).toEqual([8, 0, 8]);
    expect(decide([sequence(60, 0), sequence(30, 10), sequence(6, 0)], [], 9).rows).toEqual([8, 2, 6]);
    // One that is not much shorter waits.
    expect(decide([sequence(60, 0), sequence(30, 0)], [], 9).rows).toEqual([16, 0]);
    expect(decide([sequence(60, 0), sequence(29, 0)], [], 9).rows).toEqual([8, 8]);
    // Whoever waits comes before longer ones that run, but for the oldest.
    expect(decide([sequence(60, 0), sequence(30, 10)], [sequence(5, 0)], 20)).toEqual({ kept: 2, at: [0], rows: [8, 3, 5] });
    expect(decide([sequence(60, 0)], [sequence(40, 0), sequence(3, 0)], 40)).toEqual({ kept: 1, at: [0, 1], rows: [8, 5, 3] });
    expect(decide([sequence(60, 0)], [sequence(3, 0)], 40)).toEqual({ kept: 1, at: [0], rows: [13, 3] });
    // Also one that was only just admitted.
    expect(decide([], [sequence(60, 0), sequence(3, 0)], 40)).toEqual({ kept: 0, at: [0, 1], rows: [13, 3] });
    // Nobody can be admitted.
    expect(decide([sequence(60, 0)], [sequence(40, 0), sequence(3, 0)], 5)).toEqual({ kept: 1, at: [], rows: [16] });
  });

  test('a short prompt has rows soon, however much is older, and the oldest has half of the rows at all times', () => {
    const pendings = fc.array(fc.oneof(fc.integer({ min: 2, max: 40 }), fc.integer({ min: 100, max: 4000 })), { maxLength: 3 });
    fc.assert(
      fc.property(fc.constantFrom<LaneWork>('all', 'prefill'), pendings, fc.nat({ max: 3 }), (work, olders, runs) => {
        const mine = sequence(4, 0);
        let running = olders.slice(0, runs).map((pending) => sequence(pending, 0));
        let waiting = [...olders.slice(runs).map((pending) => sequence(pending, 0)), mine];
        // Each older one that is not much longer is done before it, a few rows a step, if need be.
        for (let decisions = 0; decisions < 8; decisions++) {
          const { at, rows } = decide(running, waiting, 10_000, work);
          const before = running;
          running = [...running, ...at.map((i) => waiting[i])];
          waiting = waiting.filter((_, i) => !at.includes(i));
          if (rows[running.indexOf(mine)] > 0) return;
          const oldest = before[0];
          if (oldest !== undefined) expect(rows[0]).toBeGreaterThanOrEqual(Math.min(oldest.length - oldest.scheduled, limits.rows / 2));
          running = running.map((s, i) => (s === mine ? s : sequence(s.length, s.scheduled + rows[i])));
          // What has been computed is a stream no longer than a step.
          running = running.filter((s) => s.length > s.scheduled);
        }
        expect.unreachable('eight decisions gave it nothing');
      }),
      { numRuns: 500 },
    );
  });

  test('one that was overtaken often enough is admitted before shorter ones, and leaves half of the rows to them', () => {
    const overdue = (length: number, more = {}) => sequence(length, 0, { overtaken: OVERTAKEN_MAX, ...more });
    const short = () => sequence(3, 0);
    expect(decide([sequence(60, 0)], [sequence(40, 0), short(), short()], 40)).toEqual({ kept: 1, at: [0, 1, 2], rows: [8, 2, 3, 3] });
    expect(decide([sequence(60, 0)], [overdue(40), short(), short()], 40)).toEqual({ kept: 1, at: [0, 1, 2], rows: [8, 4, 3, 1] });
    expect(decide([sequence(60, 0)], [sequence(40, 0), sequence(8, 0)], 40)).toEqual({ kept: 1, at: [1], rows: [8, 8] });
    expect(decide([sequence(60, 0)], [overdue(40), sequence(8, 0)], 40)).toEqual({ kept: 1, at: [0, 1], rows: [8, 4, 4] });
    expect(decide([sequence(60, 0), overdue(40)], [sequence(8, 0)], 40)).toEqual({ kept: 2, at: [0], rows: [8, 4, 4] });
    // One a step, the first of them that may be admitted.
    expect(decide([sequence(60, 0), overdue(40)], [overdue(40), sequence(8, 0)], 40)).toEqual({ kept: 2, at: [0, 1], rows: [8, 0, 4, 4] });
    expect(decide([sequence(60, 0)], [overdue(40), overdue(30), sequence(8, 0)], 40)).toEqual({ kept: 1, at: [0, 2], rows: [8, 4, 4] });
    // There is one place, or too few blocks for it.
    const three = [sequence(60, 0), sequence(9, 9), sequence(9, 9)];
    expect(decide(three, [sequence(40, 0), overdue(40), short()], 40)).toEqual({ kept: 3, at: [1], rows: [8, 0, 0, 8] });
    expect(decide([sequence(60, 0)], [sequence(4, 0), overdue(40), short()], 5)).toEqual({ kept: 1, at: [], rows: [16] });
    // It leaves logits too.
    expect(decide([sequence(60, 0)], [overdue(40, { everyLogit: true }), short()], 40).rows).toEqual([8, 5, 3]);
  });

  test('one that waits for what another computes is not overtaken meanwhile', () => {
    const follower = sequence(40, 0, { awaitsPrefix: true });
    const [long, short] = [sequence(40, 0), sequence(8, 0)];
    decide([sequence(60, 0)], [follower, long, short], 40);
    expect([follower.overtaken, long.overtaken]).toEqual([0, 1]);
  });

  test('what is cached of a waiting one makes it no longer', () => {
    const cached = sequence(40, 36, { likelyCached: 36 });
    expect(decide([sequence(60, 0)], [sequence(8, 0), cached], 40)).toEqual({ kept: 1, at: [0, 1], rows: [8, 4, 4] });
    expect(decide([sequence(60, 0)], [sequence(8, 0), { ...cached, likelyCached: 0 }], 40)).toEqual({ kept: 1, at: [0], rows: [8, 8] });
  });

  test('nobody is overtaken in more steps than the bound, and as many as others were before it when it came', () => {
    interface Arrived extends Schedulable {
      scheduled: number;
      ahead: number;
      /** Steps for which it keeps its place once its prompt is computed. */
      stays: number;
    }
    const blocks = 40;
    // The middle ones are those behind which a long one might wait for ever: always one of them is half done.
    const lengths = [fc.integer({ min: 2, max: 6 }), fc.integer({ min: 17, max: 30 }), fc.integer({ min: 31, max: 140 })];
    const arrival = fc.record({ length: fc.oneof(...lengths), stays: fc.nat({ max: 3 }) });
    fc.assert(
      fc.property(
        fc.constantFrom<LaneWork>('all', 'prefill'),
        fc.array(fc.array(arrival, { maxLength: 3 }), { minLength: 60, maxLength: 120, size: 'max' }),
        (work, steps) => {
          let running: Arrived[] = [];
          let waiting: Arrived[] = [];
          for (const arrivals of steps) {
            for (const { length, stays } of arrivals) waiting.push({ ...sequence(length, 0), scheduled: 0, ahead: waiting.length, stays });
            const held = running.reduce((sum, { blockCount }) => sum + blockCount, 0);
            const { at, rows } = decide(running, waiting, blocks - held, work);
            running.push(...at.map((i) => waiting[i]));
            waiting = waiting.filter((_, i) => !at.includes(i));
            for (const { overtaken, ahead } of waiting) expect(overtaken).toBeLessThanOrEqual(OVERTAKEN_MAX + ahead);
            running.forEach((one, i) => {
              if (one.scheduled === one.length) one.stays--;
              one.scheduled += rows[i];
            });
            running = running.filter(({ scheduled, length, stays }) => scheduled < length || stays > 0);
          }
        },
      ),
      { numRuns: 15 },
    );
  });

  test('one that is about to end keeps its place, and gets and asks for nothing', () => {
    const ending = (length: number, scheduled: number) => sequence(length, scheduled, { ending: true, inFlight: 1 });
    expect(decide([ending(60, 4), sequence(30, 4)], [], 9, 'prefill')).toEqual({ kept: 2, at: [], rows: [0, 16] });
    expect(decide([ending(60, 4)], [sequence(8, 0)], 9, 'prefill')).toEqual({ kept: 1, at: [0], rows: [0, 8] });
    const four = Array.from({ length: limits.sequences }, () => ending(60, 4));
    expect(decide(four, [sequence(8, 0)], 9, 'prefill').at).toEqual([]);
    // Nor does a stream that lacks a block keep others from theirs, or their logits.
    const lacking = sequence(9, 8, { blockCount: 2, ending: true, inFlight: 1 });
    expect(decide([lacking, sequence(30, 4)], [], 0, 'prefill').rows).toEqual([0, 16]);
    expect(decide([ending(9, 9), sequence(20, 0, { everyLogit: true })], [], 9, 'prefill', { ...limits, logitRows: 16 }).rows).toEqual([
      0, 16,
    ]);
    expect(decide([sequence(9, 8, { ending: true }), sequence(9, 8)], [], 9).rows).toEqual([0, 1]);
  });

  test('while other homes wait, prompt logprobs take few logit rows a step as well', () => {
    const wide = { ...limits, logitRows: 32, rows: 32, othersWait: true };
    expect(decide([sequence(40, 0, { everyLogit: true })], [], 20, 'all', wide).rows).toEqual([8]);
    expect(decide([], [sequence(40, 0, { everyLogit: true })], 20, 'prefill', wide).rows).toEqual([8]);
  });

  test('a last chunk of one token is a decode, and due when the chunks before it are computed', () => {
    for (const work of ['decode', 'prefill'] as const) expect(decide([sequence(21, 20, { inFlight: 1 })], [], 10, work).rows).toEqual([0]);
    expect(decide([sequence(21, 20)], [], 10, 'prefill').rows).toEqual([0]);
    expect(decide([sequence(21, 20)], [], 10, 'decode').rows).toEqual([1]);
  });

  test('what is in a step is not preempted, and one that cannot grow meanwhile waits', () => {
    const needy = sequence(9, 8, { blockCount: 2 });
    const busy = sequence(8, 4, { inFlight: 1 });
    expect(decide([needy, busy], [], 0, 'decode')).toEqual({ kept: 2, at: [], rows: [0, 0] });
    expect(decide([needy, busy, sequence(5, 4)], [], 0, 'decode')).toEqual({ kept: 2, at: [], rows: [1, 0] });
  });

  test('while a stream lacks a block, younger prompts begin nothing more, so that one of them can be preempted; older ones go on', () => {
    const needy = sequence(9, 8, { blockCount: 2 });
    const busy = sequence(30, 20, { inFlight: 1 });
    expect(decide([needy, busy], [sequence(4, 0)], 0, 'prefill')).toEqual({ kept: 2, at: [], rows: [0, 0] });
    expect(decide([busy, needy], [], 0, 'prefill')).toEqual({ kept: 2, at: [], rows: [10, 0] });
    expect(decide([needy, busy], [], 1, 'prefill')).toEqual({ kept: 2, at: [], rows: [0, 10] });
  });

  test('guesses get the rows, logits and free blocks that are left, and none beside a prompt', () => {
    const guessing = (proposed: number, more = {}) => sequence(10, 9, { proposed, ...more });
    expect(decide([guessing(3), sequence(9, 8)], [], 9, 'decode').rows).toEqual([4, 1]);
    // Positions 10 and 11 are in a block that it has; for more there must be one beyond the watermark.
    expect(decide([guessing(5)], [], 1, 'decode').rows).toEqual([3]);
    expect(decide([guessing(5)], [], 2, 'decode').rows).toEqual([6]);
    expect(decide([guessing(5), guessing(5), guessing(5)], [], 9, 'decode').rows).toEqual([6, 1, 1]);
    expect(decide([guessing(5), guessing(5)], [], 2, 'decode', { ...limits, logitRows: 16 }).rows).toEqual([6, 3]);
    expect(decide([guessing(1)], [], 9, 'decode', { ...limits, logitRows: 2 }).rows).toEqual([2]);
    expect(decide([guessing(5), sequence(20, 12)], [], 9).rows).toEqual([1, 8]);
    expect(decide([guessing(5)], [sequence(4, 0)], 9).rows).toEqual([1, 4]);
    // Nobody is admitted for want of blocks: guesses take no block either, but what is at hand.
    expect(decide([guessing(5)], [sequence(40, 0)], 1).rows).toEqual([3]);
  });

  test('guesses preempt nobody, and one that still holds the block of guesses that were wrong asks for none', () => {
    const rich = sequence(8, 7, { blockCount: 3, proposed: 6 });
    const needy = sequence(9, 8, { blockCount: 2, proposed: 6 });
    expect(decide([rich, needy], [], 1, 'decode')).toEqual({ kept: 2, at: [], rows: [5, 3] });
    // The third block of the first is not free for the second.
    expect(decide([{ ...rich, proposed: 0 }, needy], [], 2, 'decode').rows).toEqual([1, 4]);
  });

  test('in no lane exceeds a limit, takes what nobody can give, or does nothing where something can be done', () => {
    const arbitrary = fc.record({
      computed: fc.nat({ max: 40 }),
      // Half of them are streams.
      pending: fc.oneof(fc.constant(1), fc.nat({ max: 40 })),
      everyLogit: fc.boolean(),
      missing: fc.nat({ max: 1 }),
      /** Blocks that others hold too: of a common beginning. */
      shared: fc.nat({ max: 12 }),
      inFlight: fc.nat({ max: 2 }),
      proposed: fc.nat({ max: 9 }),
    });
    type Drawn = typeof arbitrary extends fc.Arbitrary<infer T> ? T : never;
    /** As the engine has them: only a stream grows into blocks that it lacks, for a prompt gets all of its own when it is admitted. */
    const schedulable = ({ computed, pending: drawn, everyLogit, missing, shared, inFlight, proposed }: Drawn): Schedulable => {
      const pending = inFlight > 0 ? drawn : Math.max(1, drawn);
      const length = computed + pending;
      const blockCount = Math.max(0, Math.ceil(length / limits.blockTokens) - (pending <= 1 ? missing : 0));
      const exclusiveBlocks = Math.max(0, blockCount - shared);
      return sequence(length, computed, { everyLogit, blockCount, exclusiveBlocks, inFlight, proposed: pending === 1 ? proposed : 0 });
    };
    const lacks = (s: Schedulable) => Math.max(0, Math.ceil(s.length / limits.blockTokens) - s.blockCount);
    fc.assert(
      fc.property(
        fc.constantFrom<LaneWork>('all', 'decode', 'prefill'),
        fc.array(arbitrary.map(schedulable), { maxLength: 4 }),
        fc.array(
          arbitrary.map((drawn) => schedulable({ ...drawn, inFlight: 0, missing: 0 })),
          { maxLength: 6 },
        ),
        fc.oneof(fc.nat({ max: 2 }), fc.nat({ max: 30 })),
        (work, running, waiting, free) => {
          const { kept, at, rows } = decide(running, waiting, free, work);
          const gone = running.filter((s, i) => i >= kept && s.inFlight === 0);
          const staying = running.filter((s) => !gone.includes(s));
          const chosen = [...running.slice(0, kept), ...at.map((i) => waiting[i])];
          expect(staying.length + at.length).toBeLessThanOrEqual(limits.sequences);
          expect(rows.slice(kept).every((r) => r > 0)).toBe(true);
          expect(rows.reduce((a, b) => a + b, 0)).toBeLessThanOrEqual(limits.rows);
          let logits = 0;
          // What is let go of is free, as far as nobody else holds it.
          let blocks = gone.reduce((sum, s) => sum + s.exclusiveBlocks, free);
          chosen.forEach((s, i) => {
            const pending = s.length - s.scheduled;
            expect(rows[i]).toBeLessThanOrEqual(pending + s.proposed);
            if (rows[i] === 0 && i < kept) return;
            const guesses = Math.max(0, rows[i] - pending);
            logits += s.everyLogit ? rows[i] : Number(rows[i] >= pending) + guesses;
            blocks -= Math.ceil((s.length + guesses) / limits.blockTokens) - (i < kept ? s.blockCount : 0);
            if (work === 'decode') expect(pending).toBe(1);
            if (work !== 'prefill' || pending === 1) expect(s.inFlight).toBe(0);
          });
          expect(logits).toBeLessThanOrEqual(limits.logitRows);
          expect(blocks).toBeGreaterThanOrEqual(0);
          if (work !== 'all') expect(work === 'decode' ? at.length : gone.length).toBe(0);
          const idle = running.every((s) => s.inFlight === 0);
          const can =
            work === 'prefill'
              ? running.some((s) => s.length - s.scheduled > 1) && running.every((s) => lacks(s) === 0)
              : idle && running.slice(0, kept).some((s) => work === 'all' || s.length - s.scheduled === 1);
          if (can) expect(rows.some((r) => r > 0)).toBe(true);
        },
      ),
      { numRuns: 1000 },
    );
  });
});
