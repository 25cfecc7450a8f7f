import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { toWorkerSchema } from '../src/control-schema.ts';
import { dialStream } from '../src/grpc-stream.ts';
import type { FromWorker, LinkOptions, Listener, ToWorker, WorkerStream } from '../src/index.ts';
import { attachToCoordinator, limits, SwitchyardError, serveControl } from '../src/index.ts';

const open: LinkOptions = { token: '', tls: null };
const folder = mkdtempSync(path.join(os.tmpdir(), 'sy-control-'));
afterAll(() => rmSync(folder, { recursive: true }));
let serial = 0;
const listeners: Listener[] = [];
afterEach(async () => {
  await Promise.all(listeners.splice(0).map((l) => l.close()));
});

async function serve(address: string, options: LinkOptions, accept: (worker: WorkerStream) => void): Promise<string> {
  const listener = await serveControl(address, options, accept);
  listeners.push(listener);
  return listener.address;
}

const hello: FromWorker = {
  type: 'hello',
  protocolVersion: 1,
  name: 'n0w1',
  node: 'n0',
  pid: 42,
  dataAddresses: ['uds:///run/a.sock', 'tcp://127.0.0.1:1'],
  device: '{"backend":"cpu"}',
  softwareVersion: '0.1.0',
  memories: ['a0 node1', 'b1'],
};
const stop: ToWorker = { type: 'stop', graceMs: 1500 };

const addresses: [string, () => string][] = [
  ['tcp', () => '127.0.0.1:0'],
  ['a Unix socket', () => `unix:${path.join(folder, `${serial++}.sock`)}`],
];

describe.each(addresses)('control stream over %s', (_, address) => {
  it('carries messages both ways, in order', async () => {
    const up: FromWorker[] = [];
    const at = await serve(address(), open, (worker) => {
      worker.onMessage((m) => {
        up.push(m);
        worker.send({ type: 'cancel', request: up.length });
      });
    });
    const coordinator = await attachToCoordinator(at, open);
    const down: ToWorker[] = [];
    const all = new Promise<void>((resolve) => {
      coordinator.onMessage((m) => {
        if (down.push(m) === 100) resolve();
      });
    });
    for (let i = 0; i < 100; i++) coordinator.send({ ...hello, pid: i });
    await all;
    expect(up).toEqual(Array.from({ length: 100 }, (_, pid) => ({ ...hello, pid })));
    expect(down).toEqual(Array.from({ length: 100 }, (_, i) => ({ type: 'cancel', request: i + 1 })));
    await coordinator.close();
    expect(await coordinator.closed).toBeNull();
  });

  it('delivers what was sent before an orderly close by the coordinator', async () => {
    const at = await serve(address(), open, (worker) => {
      worker.send(stop);
      void worker.close();
    });
    const coordinator = await attachToCoordinator(at, open);
    const down: ToWorker[] = [];
    coordinator.onMessage((m) => down.push(m));
    expect(await coordinator.closed).toBeNull();
    expect(down).toEqual([stop]);
    expect(() => coordinator.send(hello)).toThrow(/closed/);
  });

  it('tells the coordinator that a worker broke off', async () => {
    let closed: Promise<SwitchyardError | null> | undefined;
    const at = await serve(address(), open, (worker) => {
      closed = worker.closed;
    });
    const coordinator = await attachToCoordinator(at, open);
    await coordinator.close(new SwitchyardError('internal', 'broken'));
    expect((await coordinator.closed)?.code).toBe('internal');
    expect((await closed)?.code).toBe('link_closed');
  });
});

describe('control stream', () => {
  it.each(['worker', 'coordinator'])(
    'does not call it order where a stream is cut that waits for what the %s sent to be taken',
    async (sender) => {
      let arrived!: (worker: WorkerStream) => void;
      const accepted = new Promise<WorkerStream>((resolve) => {
        arrived = resolve;
      });
      const coordinator = await attachToCoordinator(await serve('127.0.0.1:0', open, arrived), open);
      const worker = await accepted;
      const large = 'x'.repeat(30_000_000); // Nobody takes it.
      if (sender === 'worker') coordinator.send({ ...hello, device: large });
      else worker.send({ type: 'refuse', code: 'internal', message: large });
      const [closer, cutter] = sender === 'worker' ? [coordinator, worker] : [worker, coordinator];
      const closing = closer.close();
      await cutter.close(new SwitchyardError('internal', 'broken on purpose'));
      await closing;
      expect(await closer.closed).toMatchObject({ code: 'link_closed' });
    },
  );

  it('refuses a wrong or missing token, and takes the right one', async () => {
    const at = await serve('127.0.0.1:0', { token: 'right', tls: null }, () => {});
    for (const token of ['', 'wrong', 'right '])
      await expect(attachToCoordinator(at, { token, tls: null })).rejects.toMatchObject({ code: 'unauthorized' });
    const coordinator = await attachToCoordinator(at, { token: 'right', tls: null });
    await coordinator.close();
  });

  it('cuts off a worker whose bytes are no message', async () => {
    let closed: Promise<SwitchyardError | null> | undefined;
    const at = await serve('127.0.0.1:0', open, (worker) => {
      closed = worker.closed;
      worker.onMessage(() => {});
    });
    const kind = {
      transport: 'grpc',
      path: '/switchyard.v1.Control/Attach',
      messageBytesMax: 1000,
      pendingBytesMax: 1000,
    };
    const link = await dialStream(at, kind, open);
    link.send(Buffer.from('hello'));
    expect(await link.closed).toMatchObject({ code: 'link_closed' });
    expect(await closed).toMatchObject({ code: 'bad_frame' });
  });

  it('takes no more from a worker that has not said hello than a hello needs', async () => {
    const received: number[] = [];
    const closed: Promise<SwitchyardError | null>[] = [];
    const at = await serve('127.0.0.1:0', open, (worker) => {
      closed.push(worker.closed);
      worker.onMessage((m) => received.push(m.type === 'hello' ? m.device.length : 0));
    });
    const most = limits.helloBytesMax - 200; // for what else a hello says
    const well = await attachToCoordinator(at, open);
    well.send({ ...hello, device: 'x'.repeat(most) });
    well.send({ ...hello, device: 'x'.repeat(10 * most) });
    await expect.poll(() => received).toEqual([most, 10 * most]);
    await well.close();
    const talkative = await attachToCoordinator(at, open);
    talkative.send({ ...hello, device: 'x'.repeat(limits.helloBytesMax) });
    expect(await talkative.closed).toMatchObject({ code: 'link_closed' });
    expect(await closed[1]).toMatchObject({ code: 'bad_frame', message: expect.stringContaining(`outside 1..${limits.helloBytesMax}`) });
    expect(received).toHaveLength(2);
  });

  it('cuts off a reader that never reads, at the bound', async () => {
    let worker!: WorkerStream;
    const accepted = new Promise<void>((resolve) => {
      void serve('127.0.0.1:0', open, (stream) => {
        worker = stream;
        resolve();
      }).then(async (at) => attachToCoordinator(at, open)); // and no onMessage
    });
    await accepted;
    const prompt = new Uint32Array(1_000_000).fill(2 ** 31); // 5 MB
    const submit = { type: 'submit', ...toWorkerSchema.members.submit[1].empty(), prompt } as unknown as ToWorker;
    let refused = 0;
    for (let i = 0; i < 40 && (await Promise.race([worker.closed, null])) === null; i++) if (!worker.send(submit)) refused++;
    expect(refused).toBeGreaterThan(5);
    expect(await worker.closed).toMatchObject({ code: 'queue_full' });
  });

  it('says link_closed where nobody listens', async () => {
    await expect(attachToCoordinator('127.0.0.1:1', open)).rejects.toMatchObject({ code: 'link_closed' });
  });

  it('can be given up while dialling', async () => {
    const silent = net.createServer();
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
    const accepted = once(silent, 'connection');
    const abort = new AbortController();
    const dialled = attachToCoordinator(`127.0.0.1:${(silent.address() as net.AddressInfo).port}`, { ...open, signal: abort.signal });
    const refused = expect(dialled).rejects.toMatchObject({ code: 'cancelled' });
    const [socket] = await accepted;
    abort.abort();
    await refused;
    socket.destroy();
    silent.close();
  });

  it('ends every worker in order when the server closes', async () => {
    const listener = await serveControl('127.0.0.1:0', open, () => {});
    const workers = await Promise.all([attachToCoordinator(listener.address, open), attachToCoordinator(listener.address, open)]);
    await listener.close();
    for (const worker of workers) expect(await worker.closed).toBeNull();
  });

  it('carries bulk both ways at once', async () => {
    const prompt = new Uint32Array(200_000).fill(2 ** 31); // 1 MB
    const submit = { type: 'submit', ...toWorkerSchema.members.submit[1].empty(), prompt } as unknown as ToWorker;
    const trace: FromWorker = { type: 'trace', request: [1], position: [1], generated: [true], experts: new Uint8Array(1_000_000) };
    const count = 15;
    let up = 0;
    let down = 0;
    const at = await serve('127.0.0.1:0', open, (worker) => {
      worker.onMessage(() => up++);
      for (let i = 0; i < count; i++) worker.send(submit);
    });
    const coordinator = await attachToCoordinator(at, open);
    coordinator.onMessage(() => down++);
    coordinator.send(hello);
    for (let i = 0; i < count; i++) coordinator.send(trace);
    await expect.poll(() => [up, down], { timeout: 20_000 }).toEqual([1 + count, count]);
    await coordinator.close();
  });

  it('carries a plan of many megabytes', async () => {
    const plan = Buffer.alloc(20 * 1024 * 1024, 'plan ');
    const at = await serve('127.0.0.1:0', open, (worker) => {
      const engine = {
        numericClass: 'bf16',
        expertDtype: 'stored',
        denseDtype: 'stored',
        sumMode: 'exact',
        maxContext: 4096,
        kvBlocks: 0,
        kvBytes: 2 ** 40,
      };
      const rest = {
        maxBatchRows: 64,
        maxSequences: 32,
        prefixCache: true,
        rowDeadlineMs: 30_000,
        lossy: '',
        replayRouting: '',
        draftMax: 8,
      };
      worker.send({ type: 'assign', worker: 3, epoch: 7, modelDir: '/m', plan, engine: { ...engine, ...rest } });
    });
    const coordinator = await attachToCoordinator(at, open);
    const assign = await new Promise<ToWorker>((resolve) => coordinator.onMessage(resolve));
    expect(assign).toMatchObject({ type: 'assign', worker: 3, epoch: 7, engine: { kvBytes: 2 ** 40, prefixCache: true } });
    expect(assign.type === 'assign' && Buffer.compare(assign.plan, plan)).toBe(0);
    await coordinator.close();
  });
});
