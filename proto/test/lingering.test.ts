import { describe, expect, it } from 'vitest';
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

  it('leaves out turns in which something else was done', () => {
    const awake = new AwakeTime();
    for (const used of [1, 1 + 5e-6, 1 + 0.02, 1 + 0.02 + 5e-6]) awake.emptyTurn(used);
    expect(awake.seconds).toBeCloseTo(10e-6, 9);
  });
});
