import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { AwakeTime, FrameRhythm, limits } from '../src/index.ts';

/** A rhythm after frames that arrived at these times. */
function after(times: readonly number[], slept = false): FrameRhythm {
  const rhythm = new FrameRhythm();
  for (const ms of times) rhythm.arrived(ms, slept);
  return rhythm;
}

const every = (ms: number, count: number) => Array.from({ length: count }, (_, i) => i * ms);

describe('the rhythm of frames', () => {
  it('keeps the loop awake for a bounded time after each frame while they come soon', () => {
    const times = every(limits.lingerMs / 2, 100);
    expect(after(times).untilMs).toBe(times.at(-1)! + limits.lingerMs);
  });

  it('lets the loop sleep where frames come later than that', () => {
    expect(after(every(limits.lingerMs * 2, 100)).untilMs).toBeLessThan(0);
  });

  it('counts from what was sent, too: an answer that comes soon is worth waiting for', () => {
    const rhythm = new FrameRhythm();
    for (let i = 1; i <= 100; i++) {
      rhythm.moved(i * limits.lingerMs * 10);
      rhythm.arrived(i * limits.lingerMs * 10 + limits.lingerMs / 2, false);
    }
    expect(rhythm.untilMs).toBeGreaterThan(0);
  });

  it('does not take the time to wake up for time between frames', () => {
    const times = every(limits.lingerMs + 0.1, 100);
    expect(after(times, false).untilMs).toBeLessThan(0);
    expect(after(times, true).untilMs).toBeGreaterThan(0);
  });

  it('is not kept by what has not been: without a frame there is nothing to wait for', () => {
    expect(new FrameRhythm().untilMs).toBe(Number.NEGATIVE_INFINITY);
  });

  it('takes a frame for soon that comes at the end of the time, and for late one that comes after it', () => {
    const share = (gap: number) => after(every(gap, 100)).untilMs > 0;
    // The first gap has no frame before it; sums of a power of two are exact.
    expect([limits.lingerMs, limits.lingerMs + 1 / 1024].map(share)).toEqual([true, false]);
    // Ringing took 0.15 ms of what a sleeper has waited.
    const slept = (gap: number) => after(every(gap, 100), true).untilMs > 0;
    expect([limits.lingerMs + 0.14, limits.lingerMs + 0.16].map(slept)).toEqual([true, false]);
  });

  it('gives up after six late frames in a row, and comes back with the next that is soon', () => {
    const rhythm = after([0]);
    let now = 0;
    const late = () => {
      now += limits.lingerMs * 2;
      rhythm.arrived(now, false);
      return rhythm.untilMs > 0;
    };
    // The very first came after nothing, and was late.
    expect(Array.from({ length: 5 }, late)).toEqual([true, true, true, true, false]);
    rhythm.arrived(now + limits.lingerMs / 2, false);
    expect(rhythm.untilMs).toBe(now + limits.lingerMs * 1.5);
  });

  it('forgets what was: a busy link that falls silent and is busy again is waited for again', () => {
    const rhythm = after(every(limits.lingerMs * 5, 100));
    expect(rhythm.untilMs).toBeLessThan(0);
    for (let i = 0; i < 10; i++) rhythm.arrived(1_000_000 + (i * limits.lingerMs) / 2, true);
    expect(rhythm.untilMs).toBeGreaterThan(0);
  });

  it('is not put off by a pause between two steps', () => {
    let now = 0;
    const rhythm = new FrameRhythm();
    for (let step = 0; step < 50; step++) {
      now += limits.lingerMs * 3;
      for (let layer = 0; layer < 6; layer++) {
        now += limits.lingerMs / 3;
        rhythm.arrived(now, false);
      }
      expect(rhythm.untilMs).toBe(now + limits.lingerMs);
    }
  });
});

describe('processor time of waiting awake', () => {
  it('is that of turns without a frame that follow one another', () => {
    const awake = new AwakeTime();
    for (const used of [1, 1 + 4e-6, 1 + 10e-6]) awake.emptyTurn(used);
    awake.busyTurn();
    awake.emptyTurn(1 + 200e-6);
    awake.emptyTurn(1 + 203e-6);
    expect(awake.seconds).toBeCloseTo(13e-6, 9);
  });

  it('counts a turn that took just so long as an empty one may, and no longer one', () => {
    const awake = new AwakeTime();
    // What the thread did before its first turn is none.
    awake.emptyTurn(10e-6);
    expect(awake.seconds).toBe(0);
    awake.busyTurn();
    for (const used of [0, 50e-6]) awake.emptyTurn(used);
    expect(awake.seconds).toBe(50e-6);
    awake.emptyTurn(50e-6 + 51e-6);
    expect(awake.seconds).toBe(50e-6);
  });

  it('leaves out turns in which something else was done', () => {
    const awake = new AwakeTime();
    for (const used of [1, 1 + 5e-6, 1 + 0.02, 1 + 0.02 + 5e-6]) awake.emptyTurn(used);
    expect(awake.seconds).toBeCloseTo(10e-6, 9);
  });
});

describe('the event loop after a frame', () => {
  /** Fresh state: the module keeps one for the process. */
  let lingering: typeof import('../src/lingering.ts');
  /** Processor time of the thread, 4 µs more each time that the core is left. */
  let usedSeconds: number;
  let timesLeft: number;
  const leaveCore = () => {
    timesLeft++;
    usedSeconds += 4e-6;
    return usedSeconds;
  };
  let nowMs: number;
  /** What the loop will do in its next turn. */
  let next: (() => void)[];
  const turns = (count: number) => {
    for (let i = 0; i < count; i++) for (const work of next.splice(0)) work();
  };
  const small = limits.lingerFrameBytesMax;

  beforeEach(async () => {
    nowMs = 1_000;
    next = [];
    vi.stubGlobal('setImmediate', (work: () => void) => next.push(work));
    vi.spyOn(performance, 'now').mockImplementation(() => nowMs);
    vi.resetModules();
    lingering = await import('../src/lingering.ts');
    usedSeconds = 1;
    timesLeft = 0;
  });
  afterEach(() => {
    vi.unstubAllGlobals();
    vi.restoreAllMocks();
  });

  it('sleeps in a process that was not told to stay awake', () => {
    lingering.frameSent(small);
    lingering.frameArrived(small);
    expect([lingering.isLingering(), next.length, lingering.awakeSeconds()]).toEqual([false, 0, 0]);
  });

  it.each(['frameSent', 'frameArrived'] as const)('goes on turning (%s), leaving the core on each turn without a frame', (moved) => {
    lingering.lingerAfterFrames(leaveCore);
    lingering[moved](small);
    expect([lingering.isLingering(), next.length]).toEqual([true, 1]);
    // What the frame brought to do comes first.
    turns(1);
    expect(timesLeft).toBe(0);
    turns(1);
    expect([timesLeft, lingering.awakeSeconds()]).toEqual([1, 0]);
    turns(2);
    expect(timesLeft).toBe(3);
    expect(lingering.awakeSeconds()).toBeCloseTo(8e-6, 12);
  });

  it('sleeps again once the time is over', () => {
    lingering.lingerAfterFrames(leaveCore);
    lingering.frameSent(small);
    turns(3);
    expect(timesLeft).toBe(2);
    nowMs += limits.lingerMs;
    turns(1);
    expect([lingering.isLingering(), next.length, timesLeft]).toEqual([false, 0, 2]);
    // Time asleep is none that was waited awake.
    const before = lingering.awakeSeconds();
    lingering.frameSent(small);
    turns(2);
    expect(lingering.awakeSeconds()).toBe(before);
  });

  it('turns once for all the frames that come', () => {
    lingering.lingerAfterFrames(leaveCore);
    for (let i = 0; i < 5; i++) lingering.frameArrived(small);
    expect(next.length).toBe(1);
    turns(1);
    lingering.frameArrived(small);
    expect(next.length).toBe(1);
    turns(1);
    // A frame came in that turn, too.
    expect(timesLeft).toBe(0);
  });

  it('does not wait after a large frame', () => {
    lingering.lingerAfterFrames(leaveCore);
    lingering.frameSent(small + 1);
    lingering.frameArrived(small + 1);
    expect([lingering.isLingering(), next.length]).toEqual([false, 0]);
  });

  it('sleeps where frames come late, and counts the time to wake up only for one that was asleep', () => {
    lingering.lingerAfterFrames(leaveCore);
    const arriveAfter = (ms: number) => {
      nowMs += ms;
      turns(1);
      lingering.frameArrived(small);
      return lingering.isLingering();
    };
    expect(Array.from({ length: 6 }, () => arriveAfter(limits.lingerMs * 2))).toEqual([true, true, true, true, true, false]);
    expect(arriveAfter(limits.lingerMs + 0.1)).toBe(true);
  });
});
