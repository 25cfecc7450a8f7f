import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { NativeError } from '@switchyard/native';
import {
  type Assign,
  contiguousPlan,
  Finish,
  type FromWorker,
  type Listener,
  type Peers,
  serveControl,
  type ToWorker,
  type WorkerStream,
} from '@switchyard/proto';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { Engine } from '../../src/engine/engine.ts';
import type { Model } from '../../src/model/contract.ts';
import { parseFlags } from '../../src/process/flags.ts';
import { WorkerProcess } from '../../src/process/worker-process.ts';
import { toyEngine, toyModel, toyNative } from '../engine/toy-model.ts';
import { submitOf } from '../in-process-cluster.ts';

const shape = { experts: 4, topK: 2, moeLayers: 2, kvBlocks: 64, maxRows: 32, maxSequences: 4, maxLogitRows: 64, maxContext: 512 };
const tls = { token: '', tls: null };

/** A worker as the coordinator hears it. */
class Heard {
  readonly messages: FromWorker[] = [];
  readonly stream: WorkerStream;
  private news: () => void = () => {};

  constructor(stream: WorkerStream) {
    this.stream = stream;
    stream.onMessage((message) => {
      this.messages.push(message);
      this.news();
    });
  }

  async next<T extends FromWorker['type']>(type: T, matches: (message: Extract<FromWorker, { type: T }>) => boolean = () => true) {
    for (;;) {
      const found = this.messages.find((m) => m.type === type && matches(m as Extract<FromWorker, { type: T }>));
      if (found !== undefined) {
        this.messages.splice(this.messages.indexOf(found), 1);
        return found as Extract<FromWorker, { type: T }>;
      }
      await new Promise<void>((resolve) => {
        this.news = resolve;
      });
    }
  }

  send(message: ToWorker): void {
    this.stream.send(message);
  }
}

describe('the worker process', () => {
  let folder: string;
  let control: Listener;
  let attached: Heard[];
  let arrival: () => void;
  const running: { worker: WorkerProcess; status: Promise<number> }[] = [];
  let loads: number;
  /** Steps that models of this test have begun, and how long each takes at least. */
  let steps: number;
  let stepMs: number;
  /** Errors that workers of this test have logged. */
  let errors: string[];
  let whileLoading: () => Promise<void>;
  /** The file of their models that somebody has written to. */
  let written: string | null;

  /** As a large model is: its steps take time. */
  const slowed = (model: Model): Model => {
    const begin = () => {
      steps++;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, stepMs);
    };
    const lanes = model.lanes.map((lane): Model['lanes'][0] => ({
      ...lane,
      runSegment: (index, batch) => {
        if (index === 0) begin();
        lane.runSegment(index, batch);
      },
      runWhole:
        lane.runWhole &&
        ((batch) => {
          begin();
          lane.runWhole!(batch);
        }),
    }));
    return { ...model, ...lanes[0], lanes, writtenFile: () => written };
  };

  const nextAttached = async (): Promise<Heard> => {
    while (attached.length === 0) {
      await new Promise<void>((resolve) => {
        arrival = resolve;
      });
    }
    return attached.shift()!;
  };

  const serve = (address: string) =>
    serveControl(address, tls, (stream) => {
      attached.push(new Heard(stream));
      arrival();
    });

  const startWorker = (name: string, extra: string[] = [], done = 1, native = toyNative) => {
    const flags = parseFlags([
      '--coordinator',
      `unix:${folder}/control.sock`,
      '--name',
      name,
      '--node',
      'n0',
      '--data',
      `uds://${folder}/${name}.sock`,
      ...extra,
    ])!;
    const load: ConstructorParameters<typeof WorkerProcess>[0]['load'] = async ({ hosted, onProgress }) => {
      loads++;
      onProgress(done, 1, 'toy');
      await whileLoading();
      return slowed(toyModel(shape, hosted as number[][] | null));
    };
    const log = (level: string, text: string) => {
      if (level === 'error') errors.push(text);
    };
    const worker = new WorkerProcess({ flags, native, load, version: '0', log });
    const status = worker.run();
    running.push({ worker, status });
    return { worker, status };
  };

  const assign = (worker: number, workers: number, overrides: Partial<Assign> = {}): ToWorker => ({
    type: 'assign',
    worker,
    epoch: 1,
    modelDir: folder,
    plan: Buffer.from(
      JSON.stringify(
        contiguousPlan(
          { type: 'toy', moeLayers: [1, 2], experts: shape.experts },
          Array.from({ length: workers }, (_, w) => ({ name: `w${w}`, node: 0 })),
        ),
      ),
    ),
    engine: toyEngine(shape),
    ...overrides,
  });

  beforeEach(async () => {
    folder = await mkdtemp(path.join(tmpdir(), 'switchyard-worker-'));
    await writeFile(path.join(folder, 'config.json'), '{}');
    await writeFile(path.join(folder, 'model.safetensors'), Buffer.concat([Buffer.of(2, 0, 0, 0, 0, 0, 0, 0), Buffer.from('{}')]));
    attached = [];
    arrival = () => {};
    loads = 0;
    steps = 0;
    stepMs = 0;
    errors = [];
    written = null;
    whileLoading = async () => {};
    control = await serve(`unix:${folder}/control.sock`);
  });

  afterEach(async () => {
    await Promise.all(running.splice(0).map(({ worker, status }) => worker.stop(1).then(() => status)));
    await control.close();
    await rm(folder, { recursive: true });
  });

  test('a stream on which something could not be sent ends, for whoever waits for it waits in vain; the next has a worker that is ready', async () => {
    startWorker('w0', [], 0.5);
    const before = await nextAttached();
    before.send(assign(0, 1));
    expect(await before.stream.closed).toMatchObject({ code: 'link_closed' });
    const after = await nextAttached();
    await after.next('hello');
    after.send(assign(0, 1));
    await after.next('ready');
    expect(loads).toBe(1);
    expect(errors).toEqual([expect.stringMatching(/cannot send progress: .*done is 0\.5/)]);
  });

  test('says hello, loads what it is assigned, serves, reports, and stops when told', async () => {
    const { status } = startWorker('w0');
    const coordinator = await nextAttached();
    expect(await coordinator.next('hello')).toMatchObject({
      name: 'w0',
      node: 'n0',
      dataAddresses: [expect.stringMatching(/^uds:\/\/.*\/w0\.sock$/)],
    });
    coordinator.send({ type: 'submit', ...submitOf([1]), request: 5 });
    expect((await coordinator.next('tokens')).errors).toMatchObject([{ code: 'not_ready' }]);
    coordinator.send(assign(0, 1));
    expect(await coordinator.next('ready')).toMatchObject({ epoch: 1, kvBlocks: 64 });
    coordinator.send({ type: 'submit', ...submitOf([1, 2, 3], { maxTokens: 4 }), request: 6 });
    expect(Array.from((await coordinator.next('tokens')).request)).toContain(6);
    const stats = await coordinator.next('stats', ({ generatedTokens }) => generatedTokens === 4);
    expect(stats).toMatchObject({ kvBlocks: 64, running: 0, workPending: false });
    expect(Array.from(stats.expertTokens).reduce((a, b) => a + b)).toBe(6 * shape.moeLayers * shape.topK);
    coordinator.send({ type: 'stop', graceMs: 1000 });
    expect(await status).toBe(0);
  });

  test('serves no checkpoint that changed while it was loaded: its hash would be that of other weights', async () => {
    whileLoading = () => writeFile(path.join(folder, 'config.json'), '{"rope_theta": 5}');
    startWorker('w0');
    const coordinator = await nextAttached();
    await coordinator.next('hello');
    coordinator.send(assign(0, 1));
    expect(await coordinator.next('failed')).toMatchObject({
      code: 'bad_checkpoint',
      message: expect.stringContaining('changed while it was loaded'),
    });
  });

  /** Two workers that have half of the experts each and know each other. */
  const startPair = async () => {
    startWorker('w0');
    const w0 = await nextAttached();
    const other = startWorker('w1');
    const w1 = await nextAttached();
    const peers: Peers['peers'] = [];
    for (const [worker, heard] of [w0, w1].entries()) {
      const hello = await heard.next('hello');
      peers.push({ worker, name: hello.name, node: hello.node, dataAddresses: hello.dataAddresses });
      heard.send(assign(worker, 2));
      await heard.next('ready');
    }
    for (const heard of [w0, w1]) heard.send({ type: 'peers', epoch: 1, peers });
    return { w0, w1, other };
  };

  test('two processes share the experts over sockets, and agree with one', async () => {
    const { w0, w1 } = await startPair();
    const ask = async (worker: Heard, request: number) => {
      worker.send({ type: 'submit', ...submitOf([7, 8, 9], { maxTokens: 12, wantLogprob: true }), request });
      const said: number[] = [];
      for (;;) {
        const tokens = await worker.next('tokens');
        said.push(...Array.from(tokens.token), ...Array.from(tokens.logprob));
        expect(tokens.errors).toEqual([]);
        if (Array.from(tokens.finish).some((f) => f !== Finish.none)) return said.sort((a, b) => a - b);
      }
    };
    const first = await ask(w0, 1);
    expect(await ask(w1, 2)).toEqual(first);
    expect((await w0.next('stats', ({ links }) => links[0]?.roundTrips > 0)).links[0]).toMatchObject({ peer: 1, transport: 'uds' });
    w0.send(assign(0, 1, { epoch: 2 }));
    await w0.next('ready', ({ epoch }) => epoch === 2);
    expect(await ask(w0, 3)).toEqual(first);
  });

  test('a cancel ends its request within one step, and no other', async () => {
    stepMs = 10;
    startWorker('w0');
    const coordinator = await nextAttached();
    coordinator.send(assign(0, 1));
    await coordinator.next('ready');
    coordinator.send({ type: 'submit', ...submitOf([1], { maxTokens: 500 }), request: 8 });
    await coordinator.next('tokens');
    let before = Number.NaN;
    const { cancel } = Engine.prototype;
    const cancelled = vi.spyOn(Engine.prototype, 'cancel').mockImplementation(function (this: Engine, request) {
      before = steps;
      cancel.call(this, request);
    });
    coordinator.send({ type: 'cancel', request: 8 });
    const ended = await coordinator.next('tokens', ({ finish }) => Array.from(finish).some((each) => each !== Finish.none));
    cancelled.mockRestore();
    expect([Array.from(ended.request).at(-1), Array.from(ended.finish).at(-1)]).toEqual([8, Finish.cancelled]);
    const { kvBlocksUsed } = await coordinator.next('stats', ({ generatedTokens, running }) => generatedTokens > 0 && running === 0);
    expect(kvBlocksUsed).toBe(0);
    expect(steps).toBeLessThanOrEqual(before + 1);
    coordinator.send({ type: 'submit', ...submitOf([1], { maxTokens: 20 }), request: 9 });
    coordinator.send({ type: 'cancel', request: 8 });
    const next = await coordinator.next('tokens', ({ finish }) => Array.from(finish).some((each) => each !== Finish.none));
    expect([Array.from(next.request).at(-1), Array.from(next.finish).at(-1)]).toEqual([9, Finish.length]);
  });

  test('outlives the coordinator: the model stays, old requests end with it, new ones run', async () => {
    stepMs = 10;
    startWorker('w0');
    const before = await nextAttached();
    before.send(assign(0, 1));
    await before.next('ready');
    before.send({ type: 'submit', ...submitOf([1], { maxTokens: 500 }), request: 1 });
    await before.next('tokens');
    await control.close();
    for (let seen = -1; seen !== steps; await sleep(10 * stepMs)) seen = steps;
    expect(steps).toBeLessThan(300);
    control = await serve(`unix:${folder}/control.sock`);
    const after = await nextAttached();
    await after.next('hello');
    after.send(assign(0, 1));
    await after.next('ready');
    expect(loads).toBe(1);
    after.send({ type: 'submit', ...submitOf([1, 2], { maxTokens: 20 }), request: 2 });
    const requests: number[] = [];
    for (let ended = false; !ended; ) {
      const { request, finish } = await after.next('tokens');
      requests.push(...Array.from(request));
      ended = Array.from(finish).includes(Finish.length);
    }
    const stats = await after.next('stats', ({ running }) => running === 0);
    expect(stats.kvBlocksUsed).toBe(0);
    // Of the old one there would be hundreds of tokens more.
    expect(steps).toBeLessThan(500);
    expect(requests).toEqual(Array(20).fill(2));
    expect(after.messages.filter(({ type }) => type === 'tokens')).toEqual([]);
  });

  test('traces only while the coordinator that asked is there', async () => {
    startWorker('w0');
    const before = await nextAttached();
    before.send({ type: 'trace', on: true });
    before.send(assign(0, 1));
    await before.next('ready');
    before.send({ type: 'submit', ...submitOf([1, 2], { maxTokens: 1 }), request: 1 });
    const rows = await before.next('trace');
    expect([Array.from(rows.position), rows.generated]).toEqual([
      [0, 1],
      [false, false],
    ]);
    expect(rows.experts).toHaveLength(2 * shape.moeLayers * shape.topK * 2);
    await control.close();
    control = await serve(`unix:${folder}/control.sock`);
    const after = await nextAttached();
    after.send(assign(0, 1));
    await after.next('ready');
    after.send({ type: 'submit', ...submitOf([1, 2], { maxTokens: 1 }), request: 1 });
    await after.next('tokens', ({ finish }) => Array.from(finish).includes(Finish.length));
    expect(after.messages.filter(({ type }) => type === 'trace')).toEqual([]);
  });

  test('an assignment that cannot be served is answered with the reason', async () => {
    startWorker('w0');
    const coordinator = await nextAttached();
    coordinator.send({ ...assign(0, 1), plan: Buffer.from('{}') } as ToWorker);
    expect(await coordinator.next('failed')).toMatchObject({ epoch: 1, code: 'bad_plan' });
    coordinator.send(assign(3, 1));
    expect(await coordinator.next('failed')).toMatchObject({
      code: 'bad_plan',
      message: expect.stringContaining('worker is 3; the plan has 1'),
    });
  });

  test('serves what it was assigned last, also when that is what it was just told to let go of', async () => {
    startWorker('w0');
    const coordinator = await nextAttached();
    coordinator.send(assign(0, 1));
    await coordinator.next('ready');
    // It lets go of the first one when a step is over.
    stepMs = 100;
    coordinator.send({ type: 'submit', ...submitOf([1], { maxTokens: 500 }), request: 1 });
    await coordinator.next('tokens');
    // Of two workers, the other of which does not exist; and at once the first assignment again.
    coordinator.send(assign(0, 2));
    coordinator.send(assign(0, 1));
    await coordinator.next('ready');
    stepMs = 0;
    while (loads < 2) await sleep(1);
    coordinator.send({ type: 'submit', ...submitOf([1, 2], { maxTokens: 4 }), request: 2 });
    for (let ended = false; !ended; ) {
      const { request, errors, finish } = await coordinator.next('tokens');
      if (!Array.from(request).includes(2)) continue;
      expect(errors).toEqual([]);
      ended = Array.from(finish).includes(Finish.length);
    }
  });

  test('kernels that its flags cannot have end it with what they say, before it bothers a coordinator', async () => {
    const deviceOpen = () => {
      throw new NativeError('unsupported', 'isa = "avx512": this processor lacks it');
    };
    const { status } = startWorker('w0', [], 1, { ...toyNative, deviceOpen });
    running.length = 0;
    await expect(status).rejects.toThrow('isa = "avx512": this processor lacks it');
    expect(errors).toEqual([]);
    expect(attached).toEqual([]);
  });

  test('a refusal ends the process with status 1', async () => {
    const { status } = startWorker('w0');
    const coordinator = await nextAttached();
    coordinator.send({ type: 'refuse', code: 'version_mismatch', message: 'too old' });
    expect(await status).toBe(1);
  });

  test('a file that its model reads and somebody writes to ends its requests and the process, by name', async () => {
    const { status } = startWorker('w0');
    const coordinator = await nextAttached();
    await coordinator.next('hello');
    coordinator.send(assign(0, 1));
    await coordinator.next('ready');
    stepMs = 5;
    coordinator.send({ type: 'submit', ...submitOf([1, 2], { maxTokens: 500 }) });
    await coordinator.next('tokens');
    written = '/models/a/model.safetensors';
    const told = /^\/models\/a\/model\.safetensors: somebody writes to it/;
    const { errors: failed } = await coordinator.next('tokens', (tokens) => tokens.errors.length > 0);
    expect(failed).toEqual([{ code: 'bad_checkpoint', message: expect.stringMatching(told) }]);
    expect(await status).toBe(1);
    expect(errors).toEqual([expect.stringMatching(told)]);
  });

  test.each([
    ['on SIGTERM', (worker: WorkerProcess) => void worker.stop(20_000)],
    ['told to stop within seven weeks', (_: WorkerProcess, coordinator: Heard) => coordinator.send({ type: 'stop', graceMs: 2 ** 32 - 1 })],
  ])('%s running requests end first, and new ones are refused', async (_, stop) => {
    const { worker, status } = startWorker('w0');
    const coordinator = await nextAttached();
    coordinator.send(assign(0, 1));
    await coordinator.next('ready');
    stepMs = 1;
    coordinator.send({ type: 'submit', ...submitOf([1], { maxTokens: 300 }), request: 1 });
    await coordinator.next('tokens');
    stop(worker, coordinator);
    coordinator.send({ type: 'submit', ...submitOf([1]), request: 2 });
    const refused = await coordinator.next('tokens', ({ errors }) => errors.length > 0);
    expect(refused.errors).toMatchObject([{ code: 'shutting_down' }]);
    await coordinator.next('tokens', ({ finish }) => Array.from(finish).includes(Finish.length));
    expect(await status).toBe(0);
  });

  test('on SIGTERM streams of other homes that need its experts end first', async () => {
    const { w0, other } = await startPair();
    w0.send({ type: 'submit', ...submitOf([1], { maxTokens: 300 }), request: 1 });
    await w0.next('tokens');
    void other.worker.stop(20_000);
    const { finish, errors: told } = await w0.next('tokens', (tokens) => Array.from(tokens.finish).some((each) => each !== Finish.none));
    expect([Array.from(finish).at(-1), told]).toEqual([Finish.length, []]);
    expect(await other.status).toBe(0);
  });
});
