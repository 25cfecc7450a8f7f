import type { DispatchFrame, Link } from '@switchyard/proto';
import { describe, expect, test } from 'vitest';
import { FrameRoom } from '../../src/exchange/frame-room.ts';

const bytes = new Uint8Array(100);
const large = { bytes, scope: 'node', rows: 65 } as DispatchFrame;
const small = { ...large, rows: 64 };
const ofNeighbour: DispatchFrame = { ...large, scope: 'worker' };

/** Room for four frames, and links that say when they are paused and resumed. */
function create(names: string[]) {
  const room = new FrameRoom(400);
  const log: string[] = [];
  const links = names.map((name) => {
    const link = { pause: () => log.push(`${name} waits`), resume: () => log.push(`${name} goes on`) } as unknown as Link;
    room.open(link);
    return link;
  });
  return { room, links, log };
}

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

describe('room for frames', () => {
  test('ends for links of other nodes with large frames, and is there again when half is answered', async () => {
    const { room, links, log } = create(['home', 'neighbour', 'decode']);
    const [home, neighbour, decode] = links;
    room.take(neighbour, ofNeighbour);
    room.take(decode, small);
    for (let i = 0; i < 2; i++) room.take(home, large);
    expect(log).toEqual([]);
    room.take(decode, small);
    expect(log).toEqual(['home waits']);
    for (const [link, frame] of [
      [decode, small],
      [decode, small],
    ] as const)
      room.give(link, frame);
    await turn();
    expect(log.length).toBe(1);
    room.give(neighbour, ofNeighbour);
    // In a turn of its own: what was kept comes at once.
    expect(log.length).toBe(1);
    await turn();
    expect(log).toEqual(['home waits', 'home goes on']);
  });

  test('is given to whoever has waited longest', async () => {
    const { room, links, log } = create(['a', 'b', 'c']);
    const [a, b, c] = links;
    for (const link of [a, b, c, c, c]) room.take(link, large);
    // What a had kept fills the room again.
    a.resume = () => {
      log.push('a goes on');
      for (let i = 0; i < 3; i++) room.take(a, large);
    };
    for (let i = 0; i < 3; i++) room.give(c, large);
    await turn();
    expect(log).toEqual(['a waits', 'b waits', 'c waits', 'a goes on', 'a waits', 'b waits', 'c waits']);
    log.length = 0;
    for (let i = 0; i < 3; i++) room.give(a, large);
    await turn();
    expect(log).toEqual(['b goes on', 'c goes on', 'a goes on', 'a waits', 'b waits', 'c waits']);
  });

  test('is no longer taken by a link that is closed, whatever becomes of its frames', async () => {
    const { room, links, log } = create(['home', 'gone']);
    const [home, gone] = links;
    for (const link of [home, gone, gone, gone, gone]) room.take(link, large);
    room.close(gone);
    await turn();
    room.give(gone, large);
    expect(log).toEqual(['home waits', 'gone waits', 'home goes on']);
    for (let i = 0; i < 3; i++) room.take(home, large);
    expect(log.length).toBe(3);
    room.take(home, large);
    expect(log.at(-1)).toBe('home waits');
  });
});
