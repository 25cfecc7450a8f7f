import { mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { sharedMemory } from '@switchyard/native';
import { type Link, limits, type SharedMemory, SwitchyardError, sharedMemoryTransport } from '@switchyard/proto';
import { afterAll, describe, expect, it, vi } from 'vitest';
import { linkConformance } from '../../proto/test/link-conformance.ts';

vi.mock('../../proto/src/limits.ts', async (original) => {
  const { limits } = await original<typeof import('../../proto/src/limits.ts')>();
  return { limits: { ...limits, linksPerListenerMax: 16 } };
});

const folder = mkdtempSync(path.join(os.tmpdir(), 'sy-shm-'));
afterAll(() => rmSync(folder, { recursive: true }));
let count = 0;
linkConformance({
  name: 'shm',
  create: (bounds) => sharedMemoryTransport(sharedMemory, bounds),
  address: () => `shm://${folder}/${count++}.sock`,
});

/** A listener, a link to it, and the memory that the two share. */
async function overheard() {
  const regions: ArrayBuffer[] = [];
  const spying: SharedMemory = {
    create: (bytes) => {
      const region = sharedMemory.create(bytes);
      regions.push(sharedMemory.open(region.name, bytes).memory); // a third mapping, which outlives the link's
      return region;
    },
    open: sharedMemory.open,
  };
  let arrived!: (link: Link) => void;
  const accepted = new Promise<Link>((resolve) => {
    arrived = resolve;
  });
  const listener = await sharedMemoryTransport(sharedMemory).listen(`shm://${folder}/${count++}.sock`, open, arrived);
  const dialled = await sharedMemoryTransport(spying).dial(listener.address, open);
  return { listener, dialled, accepted: await accepted, memory: regions[0] };
}

const open = { token: '', tls: null };
/** Where the ring from the dialler to the listener has its control words and its data. */
const HEAD = 256 / 4;
const DATA = 4096;

describe('shared memory that a peer fills with nonsense', () => {
  it.each([
    ['an index that no ring has', (words: Int32Array) => words.fill(0x7fffffff, HEAD, HEAD + 1)],
    ['an index that goes back', (words: Int32Array) => words.fill(-64, HEAD, HEAD + 1)],
    [
      'a length without its check word',
      (words: Int32Array) => {
        words.fill(5, DATA / 4, DATA / 4 + 2);
        Atomics.store(words, HEAD, 8);
      },
    ],
    [
      'a frame that is too long',
      (words: Int32Array) => {
        words[DATA / 4] = limits.frameBytesMax + 1;
        words[DATA / 4 + 1] = (limits.frameBytesMax + 1) ^ 0x4b4c5953;
        Atomics.store(words, HEAD, 8);
      },
    ],
  ])('closes the link with bad_frame: %s', async (_, scribble) => {
    const { listener, dialled, accepted, memory } = await overheard();
    accepted.onFrame(() => {});
    dialled.onFrame(() => {});
    scribble(new Int32Array(memory));
    accepted.send(new Uint8Array(4 * limits.sharedRingBytes)); // The dialler wakes it when half of this is read, and it looks at its ring.
    const errors = [await accepted.closed, await dialled.closed];
    expect(errors[0]).toMatchObject({ code: 'bad_frame' });
    expect(errors[1]).toMatchObject({ code: expect.stringMatching(/link_closed|bad_frame/) });
    await listener.close();
  });

  it('survives any bytes anywhere', async () => {
    for (let seed = 1; seed <= 12; seed++) {
      const { listener, dialled, accepted, memory } = await overheard();
      accepted.onFrame((frame) => accepted.send(frame));
      dialled.onFrame(() => {});
      let state = seed;
      const random = () => (state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0);
      const words = new Int32Array(memory);
      for (let i = 0; i < 200; i++) words[random() % (i < 100 ? 256 : words.length)] = random();
      for (const link of [dialled, accepted]) {
        try {
          for (let i = 0; i < 20; i++) link.send(new Uint8Array(10_000));
        } catch (error) {
          expect(error).toMatchObject({ code: 'link_closed' });
        }
      }
      await dialled.close(new SwitchyardError('internal', 'enough'));
      await accepted.closed;
      await listener.close();
    }
  });
});

describe('an offer of shared memory', () => {
  it('is refused unless it names a region of the right size', async () => {
    const listener = await sharedMemoryTransport(sharedMemory).listen(`shm://${folder}/${count++}.sock`, open, () => {
      throw new Error('accepted');
    });
    const other = sharedMemory.create(regionOf(limits.sharedRingBytes));
    const file = path.join(folder, 'plain');
    writeFileSync(file, new Uint8Array(8192));
    for (const name of [file, '/etc/passwd', '/proc/self/fd/0', '/proc/999999999/fd/3', 'x', other.name]) {
      const lying: SharedMemory = { create: (bytes) => ({ ...sharedMemory.create(bytes), name }), open: sharedMemory.open };
      await expect(sharedMemoryTransport(lying).dial(listener.address, open)).rejects.toMatchObject({ code: 'link_closed' });
    }
    await expect(sharedMemoryTransport(sharedMemory, { ringBytes: 65_536 }).dial(listener.address, open)).rejects.toMatchObject({
      code: 'bad_frame',
    });
    other.release();
    await listener.close();
  });

  it('leaves nothing mapped and no descriptor open when links end', async () => {
    // By inode: what the tests before had mapped is let go when the engine likes.
    const inodes = () =>
      readFileSync('/proc/self/maps', 'utf8')
        .split('\n')
        .filter((line) => line.includes('memfd:switchyard'))
        .map((line) => line.split(/\s+/)[4]);
    const before = new Set(inodes());
    const mapped = () => inodes().filter((inode) => !before.has(inode)).length;
    const transport = sharedMemoryTransport(sharedMemory);
    const listener = await transport.listen(`shm://${folder}/${count++}.sock`, open, () => {});
    const links = await Promise.all(Array.from({ length: 5 }, () => transport.dial(listener.address, open)));
    const descriptors = readdirSync('/proc/self/fd').map((fd) => {
      try {
        return readlinkSync(`/proc/self/fd/${fd}`);
      } catch {
        return '';
      }
    });
    expect(descriptors.filter((name) => name.includes('memfd:switchyard'))).toEqual([]);
    expect(mapped()).toBe(10);
    await Promise.all(links.map((link) => link.close()));
    await listener.close();
    await expect.poll(mapped, { timeout: 10_000 }).toBe(0);
  });
});

function regionOf(ringBytes: number): number {
  return DATA + 2 * ringBytes;
}
