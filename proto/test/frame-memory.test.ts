import { describe, expect, it } from 'vitest';
import { frameMemory, giveBackFrame } from '../src/index.ts';

const large = 300_000;

describe('frame memory', () => {
  it('is used again once it is given back, and not before', () => {
    const first = frameMemory(large);
    expect(frameMemory(large).buffer).not.toBe(first.buffer);
    giveBackFrame(first);
    expect(frameMemory(large).buffer).toBe(first.buffer);
  });

  it('serves sizes that are nearly the same', () => {
    const first = frameMemory(large);
    giveBackFrame(first);
    const second = frameMemory(large - 1000);
    expect(second.length).toBe(large - 1000);
    expect(second.buffer).toBe(first.buffer);
  });

  it('is given back once: whoever does so twice does not lend it to two', () => {
    const frame = frameMemory(large);
    giveBackFrame(frame);
    giveBackFrame(frame);
    expect(frameMemory(large).buffer).toBe(frame.buffer);
    expect(frameMemory(large).buffer).not.toBe(frame.buffer);
  });

  it('takes no memory that is not its own', () => {
    const foreign = new Uint8Array(327_680);
    giveBackFrame(foreign);
    expect(frameMemory(foreign.length).buffer).not.toBe(foreign.buffer);
  });

  it('lets small frames share memory, each with bytes of its own until all of them are given back', () => {
    const frames = Array.from({ length: 2000 }, (_, i) => frameMemory(1000).fill(i));
    const memories = new Set(frames.map((frame) => frame.buffer));
    expect(memories.size).toBeGreaterThan(2);
    expect(memories.size).toBeLessThan(20);
    const last = frames.pop()!;
    for (const frame of frames) giveBackFrame(frame);
    const later = Array.from({ length: 2000 }, () => frameMemory(1000).fill(255));
    expect(last.every((byte) => byte === 1999 % 256)).toBe(true);
    expect(later.some((frame) => memories.has(frame.buffer))).toBe(true);
  });

  it('counts a small frame that is given back twice once', () => {
    const frames = Array.from({ length: 2000 }, (_, i) => frameMemory(1000).fill(i));
    const last = frames.pop()!;
    for (const frame of frames) {
      giveBackFrame(frame);
      giveBackFrame(frame);
    }
    for (let i = 0; i < 2000; i++) frameMemory(1000).fill(255);
    expect(last.every((byte) => byte === 1999 % 256)).toBe(true);
  });

  it('is kept up to a bound', () => {
    const frames = Array.from({ length: 40 }, () => frameMemory(4 * 1024 * 1024));
    for (const frame of frames) giveBackFrame(frame);
    const again = Array.from({ length: 40 }, () => frameMemory(4 * 1024 * 1024));
    const before = new Set(frames.map((frame) => frame.buffer));
    const reused = again.filter((frame) => before.has(frame.buffer)).length;
    expect(reused).toBeGreaterThan(0);
    expect(reused).toBeLessThanOrEqual(16);
  });
});
