import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import {
  dialBest,
  dialChoices,
  dialOrder,
  type Link,
  type Listeners,
  limits,
  listenAny,
  MemoryNetwork,
  transports,
  useSharedMemory,
} from '../src/index.ts';
import { socketRealm } from '../src/unix-socket.ts';

const open = { token: '', tls: null };
const folder = mkdtempSync(path.join(os.tmpdir(), 'sy-any-'));
afterAll(() => rmSync(folder, { recursive: true }));
const listening: Listeners[] = [];
afterEach(async () => {
  await Promise.all(listening.splice(0).map((l) => l.close()));
});

async function listen(addresses: string[], options = open): Promise<Listeners & { accepted: Link[] }> {
  const accepted: Link[] = [];
  const listeners = await listenAny(addresses, options, (link) => accepted.push(link));
  listening.push(listeners);
  return { ...listeners, accepted };
}

describe('transports', () => {
  it('are registered by the scheme they name', () => {
    expect([...transports.keys()]).toEqual(['memory', 'uds', 'tcp', 'grpc', 'nats']);
    for (const [scheme, transport] of transports) expect(transport.scheme).toBe(scheme);
  });
});

describe('listenAny and dialBest', () => {
  it('choose the Unix socket on one machine, whatever the order', async () => {
    const { addresses } = await listen(['grpc://127.0.0.1:0', 'tcp://127.0.0.1:0', `uds://${folder}/a.sock`]);
    expect(addresses.map((a) => a.replace(/:\d+$/, ':port'))).toEqual([
      'grpc://127.0.0.1:port',
      'tcp://127.0.0.1:port',
      `uds://${socketRealm()}${folder}/a.sock`,
    ]);
    const link = await dialBest(addresses, open);
    expect(link.transport).toBe('uds');
    await link.close();
  });

  it('keep the order of the rest where the socket belongs to another machine', async () => {
    const { addresses } = await listen(['tcp://127.0.0.1:0', 'grpc://127.0.0.1:0']);
    const elsewhere = `uds://000000000000${folder}/a.sock`;
    for (const [given, wanted] of [
      [[elsewhere, ...addresses], 'tcp'],
      [[elsewhere, ...addresses.toReversed()], 'grpc'],
    ] as const) {
      const link = await dialBest(given, open);
      expect(link.transport).toBe(wanted);
      await link.close();
    }
  });

  it('go on to the next address when one does not answer', async () => {
    const { addresses } = await listen(['tcp://127.0.0.1:0']);
    const link = await dialBest([`uds://${folder}/nobody.sock`, 'tcp://127.0.0.1:1', ...addresses], open);
    expect(link.transport).toBe('tcp');
    await link.close();
  });

  it('say of every address why it failed', async () => {
    const dialling = dialBest([`uds://${folder}/nobody.sock`, 'tcp://127.0.0.1:1'], open);
    await expect(dialling).rejects.toMatchObject({
      code: 'link_closed',
      message: expect.stringMatching(/nobody\.sock.*ENOENT.*127\.0\.0\.1:1.*ECONNREFUSED/),
    });
    await expect(dialBest([`uds://000000000000${folder}/a.sock`], open)).rejects.toMatchObject({
      code: 'link_closed',
      message: expect.stringContaining('none'),
    });
  });

  it('do not try other addresses with a token that was refused', async () => {
    const { addresses, accepted } = await listen([`uds://${folder}/b.sock`, 'tcp://127.0.0.1:0'], { token: 'right', tls: null });
    await expect(dialBest(addresses, { token: 'wrong', tls: null })).rejects.toMatchObject({ code: 'unauthorized' });
    expect(accepted).toEqual([]);
  });

  it('refuse no address, too many, and unknown schemes', async () => {
    const many = Array.from({ length: limits.addressesMax + 1 }, () => 'tcp://127.0.0.1:0');
    for (const addresses of [[], many, ['carrier-pigeon://roof'], ['no scheme']]) {
      await expect(listenAny(addresses, open, () => {})).rejects.toMatchObject({ code: 'invalid_request' });
    }
    await expect(dialBest([], open)).rejects.toMatchObject({ code: 'invalid_request' });
    expect(dialOrder(['future://x', 'tcp://127.0.0.1:1', 'memory://w'])).toEqual(['memory://w', 'tcp://127.0.0.1:1']);
  });

  it('dial near before far and a broker last, each for a reason', () => {
    const realm = socketRealm();
    const announced = [
      'nats://broker:4222/w0',
      'grpc://10.0.0.2:1',
      `uds://${realm}/a.sock`,
      'uds://000000000000/b.sock',
      'tcp://10.0.0.2:1',
      `shm://${realm}/a.shm`,
      'memory://w0',
    ];
    const unable = dialChoices(announced);
    expect(unable.find((c) => c.address.startsWith('shm:'))).toMatchObject({ rank: null, why: 'there is no transport shm here' });
    useSharedMemory({
      create: () => {
        throw new Error('not here');
      },
      open: () => {
        throw new Error('not here');
      },
    });
    expect(dialOrder(announced)).toEqual([
      'memory://w0',
      `shm://${realm}/a.shm`,
      `uds://${realm}/a.sock`,
      'grpc://10.0.0.2:1',
      'tcp://10.0.0.2:1',
      'nats://broker:4222/w0',
    ]);
    expect(dialChoices(announced).at(-1)).toMatchObject({
      address: 'uds://000000000000/b.sock',
      rank: null,
      why: expect.stringMatching(/another machine/),
    });
    for (const choice of dialChoices(announced)) expect(choice.why).not.toBe('');
  });

  it('go on to the socket where shared memory cannot be made', async () => {
    const { addresses } = await listen([`shm://${folder}/e.shm`, `uds://${folder}/e.sock`]);
    const link = await dialBest(addresses, open);
    expect(link.transport).toBe('uds');
    await link.close();
  });

  it('listen on all or on none', async () => {
    const { addresses } = await listen(['tcp://127.0.0.1:0']);
    const socket = `uds://${folder}/c.sock`;
    await expect(listenAny([socket, addresses[0]], open, () => {})).rejects.toMatchObject({ code: 'link_closed' });
    await listen([socket]); // free again
  });

  it('take over the socket file of a listener that died, but not of one that lives', async () => {
    const file = `${folder}/d.sock`;
    const child = spawn(process.execPath, ['-e', `require('net').createServer().listen('${file}', () => console.log('listening'))`]);
    await once(child.stdout, 'data');
    const socket = `uds://${file}`;
    await expect(listenAny([socket], open, () => {})).rejects.toMatchObject({ code: 'link_closed' });
    child.kill('SIGKILL');
    await once(child, 'exit');
    expect(existsSync(file)).toBe(true);
    const { addresses } = await listen([socket]);
    await (await dialBest(addresses, open)).close();
    await expect(listenAny([socket], open, () => {})).rejects.toMatchObject({ code: 'link_closed' });
  });
});

describe('MemoryNetwork', () => {
  /** A clock that a test turns by hand: tasks run in the order of their times. */
  function handClock() {
    const tasks: { at: number; order: number; task: () => void }[] = [];
    let now = 0;
    let order = 0;
    return {
      schedule: (delayMs: number, task: () => void) => void tasks.push({ at: now + delayMs, order: order++, task }),
      runAll: () => {
        while (tasks.length > 0) {
          tasks.sort((a, b) => a.at - b.at || a.order - b.order);
          const next = tasks.shift()!;
          now = next.at;
          next.task();
        }
      },
    };
  }

  /** What three links of one listener delivered, in the order of delivery. */
  async function run(seed: number): Promise<number[]> {
    const clock = handClock();
    const network = new MemoryNetwork({ seed, delayMs: [1, 10], schedule: clock.schedule });
    const delivered: number[] = [];
    await network.listen('memory://w', open, (link) => link.onFrame((frame) => delivered.push(frame[0])));
    const links = await Promise.all([0, 1, 2].map(() => network.dial('memory://w', open)));
    for (let i = 0; i < 10; i++) for (const [l, link] of links.entries()) link.send(Uint8Array.of(10 * l + i));
    clock.runAll();
    return delivered;
  }

  it('runs from its seed: order within links, the same reordering between them every time', async () => {
    const first = await run(5);
    expect(await run(5)).toEqual(first);
    expect(await run(6)).not.toEqual(first);
    for (const l of [0, 1, 2])
      expect(first.filter((n) => Math.floor(n / 10) === l)).toEqual(Array.from({ length: 10 }, (_, i) => 10 * l + i));
    expect(first).not.toEqual([...first].sort((a, b) => a - b));
  });

  it('closes a link that lost a frame, after what was sent before it', async () => {
    for (const seed of [1, 2, 3, 4]) {
      const clock = handClock();
      const network = new MemoryNetwork({ seed, delayMs: [1, 10], loss: 0.05, schedule: clock.schedule });
      const delivered: number[] = [];
      let accepted!: Link;
      await network.listen('memory://w', open, (link) => {
        accepted = link;
        link.onFrame((frame) => delivered.push(frame[0]));
      });
      const link = await network.dial('memory://w', open);
      for (let i = 0; i < 200; i++) link.send(Uint8Array.of(i));
      clock.runAll();
      expect(delivered).toEqual(Array.from({ length: delivered.length }, (_, i) => i));
      expect(delivered.length).toBeLessThan(200);
      expect(await link.closed).toMatchObject({ code: 'link_closed', message: expect.stringMatching(/lost/) });
      expect(await accepted.closed).toMatchObject({ code: 'link_closed' });
    }
  });

  it('cuts off a listener, and stalls one without closing anything', async () => {
    const clock = handClock();
    const network = new MemoryNetwork({ schedule: clock.schedule });
    const delivered: number[] = [];
    for (const name of ['memory://a', 'memory://b'])
      await network.listen(name, open, (link) => link.onFrame((frame) => delivered.push(frame[0])));
    const a = await network.dial('memory://a', open);
    const b = await network.dial('memory://b', open);
    network.stall('memory://a', true);
    a.send(Uint8Array.of(1));
    b.send(Uint8Array.of(2));
    clock.runAll();
    expect(delivered).toEqual([2]);
    expect(a.pendingBytes).toBe(1);
    network.stall('memory://a', false);
    expect(delivered).toEqual([2, 1]);
    network.sever('memory://b');
    clock.runAll();
    expect(await b.closed).toMatchObject({ code: 'link_closed' });
    a.send(Uint8Array.of(3));
    clock.runAll();
    expect(delivered).toEqual([2, 1, 3]);
  });
});
