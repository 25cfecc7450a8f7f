import { describe, expect, it } from 'vitest';
import { FrameInbox } from '../src/frame-inbox.ts';

describe('an inbox', () => {
  const create = () => {
    const inbox = new FrameInbox(10);
    const got: number[] = [];
    let resumed = 0;
    const deliver = (frame: number) => inbox.deliver(new Uint8Array(4).fill(frame), () => resumed++);
    return { inbox, got, deliver, resumed: () => resumed };
  };

  it('keeps what comes during a pause, up to its bound, and hands it over in order', () => {
    const { inbox, got, deliver, resumed } = create();
    inbox.onFrame((frame) => got.push(frame[0]));
    expect(deliver(1)).toBe(true);
    inbox.pause();
    expect([2, 3, 4].map(deliver)).toEqual([true, true, false]);
    expect(got).toEqual([1]);
    inbox.resume();
    expect([got, resumed()]).toEqual([[1, 2, 3, 4], 1]);
    expect(deliver(5)).toBe(true);
    expect(got.at(-1)).toBe(5);
  });

  it('goes on keeping what a receiver that pauses again has not taken', () => {
    const { inbox, got, deliver, resumed } = create();
    inbox.onFrame((frame) => {
      got.push(frame[0]);
      inbox.pause();
    });
    for (const frame of [1, 2, 3, 4]) deliver(frame);
    inbox.resume();
    expect([got, resumed()]).toEqual([[1, 2], 0]);
    expect(deliver(5)).toBe(false);
    for (let i = 0; i < 3; i++) inbox.resume();
    expect([got, resumed()]).toEqual([[1, 2, 3, 4, 5], 1]);
  });

  it('is empty once its receiver wants no more', () => {
    const { inbox, got, deliver } = create();
    inbox.onFrame((frame) => {
      got.push(frame[0]);
      inbox.stop();
    });
    inbox.pause();
    for (const frame of [1, 2]) deliver(frame);
    inbox.resume();
    expect(got).toEqual([1]);
  });
});
