import type { Native } from '@switchyard/native';
import {
  type DispatchHeader,
  dispatchFrameBytes,
  encodeDispatchHeader,
  type Frame,
  frameMemory,
  type Link,
  limits,
  MemoryNetwork,
  type Plan,
  parseFrame,
  type SwitchyardError,
  sealFrame,
} from '@switchyard/proto';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Counters } from '../../src/engine/counters.ts';
import { TimeSplit } from '../../src/engine/time-split.ts';
import { Exchange } from '../../src/exchange/exchange.ts';
import { ExpertServer, type ServedModel } from '../../src/exchange/expert-server.ts';
import { FrameRoom } from '../../src/exchange/frame-room.ts';
import { toyModel, toyNative } from '../engine/toy-model.ts';

const shape = { experts: 4, topK: 2, moeLayers: 2, kvBlocks: 4, maxRows: 8, maxSequences: 2, maxLogitRows: 2, maxContext: 64 };
const options = { token: '', tls: null };
/** Worker 5 has experts 0 and 1, its neighbour 4 expert 2; expert 3 is on another node. */
const plan: Plan = {
  format: 'switchyard-plan',
  version: 1,
  model: { type: 'toy', moeLayers: [1, 2], experts: shape.experts },
  workers: Array.from({ length: 6 }, (_, w) => ({ name: `w${w}`, node: w < 4 ? 0 : 1 })),
  replicas: Array.from({ length: 2 }, () => [[5], [5], [4], [0]]),
  provenance: null,
};
const good: DispatchHeader = {
  epoch: 7,
  step: 1,
  layer: 1,
  source: 3,
  rows: 2,
  pairs: 3,
  hidden: 4,
  numericClass: 3,
  dtype: 'f32',
  scope: 'worker',
  tag: 11,
};

function dispatch(overrides: Partial<DispatchHeader> = {}, experts = [0, 1, 0]): Uint8Array {
  const header = { ...good, ...overrides };
  const frame = frameMemory(dispatchFrameBytes(header));
  const { pairRow, pairExpert, pairWeight, rowsOffset, rowsBytes } = encodeDispatchHeader(frame, header);
  for (let p = 0; p < header.pairs; p++) {
    pairRow[p] = Math.min(p, header.rows - 1);
    pairExpert[p] = experts[p % experts.length];
    pairWeight[p] = 0.5;
  }
  for (let i = 0; i < rowsBytes / 4; i++) new DataView(frame.buffer, frame.byteOffset).setFloat32(rowsOffset + 4 * i, i + header.tag, true);
  sealFrame(frame);
  return frame;
}

describe('ExpertServer', () => {
  let network: MemoryNetwork;
  let server: ExpertServer;
  let exchange: Exchange;
  let link: Link;
  let native: Native;
  let serve: () => void;
  let counters: Counters;
  let answers: Frame[];
  let onDialled: (link: Link) => void;

  const answered = async (count: number): Promise<Frame[]> => {
    while (answers.length < count) await new Promise((resolve) => setImmediate(resolve));
    return answers;
  };

  beforeEach(async () => {
    network = new MemoryNetwork();
    server = new ExpertServer();
    counters = new Counters(shape.moeLayers, shape.experts);
    // Experts 0 and 1 of both layers live here.
    const model = toyModel(shape, [
      [0, 1],
      [0, 1],
    ]);
    const times = new TimeSplit();
    native = { ...toyNative };
    const common = { native, model, epoch: 7, worker: 5, maxRows: shape.maxRows, counters, times };
    onDialled = () => {};
    const dial = async ([address]: readonly string[]) => {
      const made = await network.dial(address, options);
      onDialled(made);
      return made;
    };
    exchange = new Exchange({ ...common, plan, rowDeadlineMs: 20_000, dial });
    serve = () => server.serve({ ...common, gateway: exchange.gateway });
    serve();
    exchange.announce([{ worker: 4, dataAddresses: ['memory://nobody'] }]);
    await network.listen('memory://server', options, (incoming) => server.accept(incoming));
    link = await network.dial('memory://server', options);
    answers = [];
    link.onFrame((frame) => answers.push(parseFrame(frame)));
  });

  afterEach(async () => {
    await exchange.close();
    await server.close();
  });

  test('answers each dispatch with the sums of its rows, echoing what it belongs to', async () => {
    link.send(dispatch());
    const [answer] = await answered(1);
    expect(answer).toMatchObject({ kind: 'combine', epoch: 7, step: 1, layer: 1, source: 5, rows: 2, hidden: 4, numericClass: 3, tag: 11 });
    expect([...counters.expertTokens]).toEqual([0, 0, 0, 0, 2, 1, 0, 0]);
  });

  test('frames that are merged get what each gets alone', async () => {
    // Those of another layer wait for their turn.
    const frames = [1, 2, 3, 4].map((tag) => dispatch({ tag, rows: 3, layer: tag === 2 ? 0 : 1 }));
    const alone: string[] = [];
    for (const frame of frames) {
      link.send(frame);
      const answer = (await answered(alone.length + 1)).at(-1)!;
      alone.push(Buffer.from((answer as { bytes: Uint8Array }).bytes).toString('hex'));
    }
    answers = [];
    for (const frame of frames) link.send(frame);
    const merged = await answered(4);
    expect(
      merged.toSorted((a, b) => a.tag - b.tag).map((answer) => Buffer.from((answer as { bytes: Uint8Array }).bytes).toString('hex')),
    ).toEqual(alone);
  });

  test.each([
    ['another epoch', { epoch: 8 }, [0], 'bad_plan', 'epoch is 8; this worker serves 7'],
    ['another numeric class', { numericClass: 4 }, [0], 'version_mismatch', 'numeric class is 4'],
    ['another row type', { dtype: 'bf16' as const }, [0], 'version_mismatch', 'rows as bf16'],
    ['another hidden size', { hidden: 8 }, [0], 'version_mismatch', 'hidden is 8; this model has 4'],
    ['a layer that is not there', { layer: 2 }, [0], 'version_mismatch', 'layer is 2; this model has 2 MoE layers'],
    ['too many rows', { rows: 9 }, [0], 'bad_frame', 'rows is 9; this worker takes 8 at once'],
    ['too many pairs', { pairs: 5 }, [0], 'bad_frame', 'row 1 has more than 2 pairs'],
    ['too many pairs of one row', { rows: 3, pairs: 5 }, [0], 'bad_frame', 'row 2 has more than 2 pairs'],
    ['an expert of another worker', {}, [0, 3], 'expert_unavailable', 'expert 3 of layer 2 does not live here'],
    ['an expert that is not there', {}, [4], 'expert_unavailable', 'expert 4 of layer 2 does not live here'],
  ])('%s is refused by name, and the link stays', async (_what, overrides, experts, code, message) => {
    link.send(dispatch(overrides, experts));
    const [refusal] = await answered(1);
    expect(refusal).toMatchObject({ kind: 'error', code, tag: 11 });
    expect((refusal as { message: string }).message).toContain(message);
    link.send(dispatch());
    expect((await answered(2))[1].kind).toBe('combine');
  });

  test('a frame for the node is refused when nobody of the node that can be reached hosts an expert of it', async () => {
    link.send(dispatch({ scope: 'node' }, [0, 2]));
    expect((await answered(1))[0]).toMatchObject({ kind: 'error', code: 'expert_unavailable', message: expect.stringContaining('w4') });
    link.send(dispatch({ scope: 'node' }, [0, 3]));
    expect((await answered(2))[1]).toMatchObject({ kind: 'error', code: 'expert_unavailable', message: expect.stringContaining('w0') });
    link.send(dispatch({ scope: 'node' }, [0, 1]));
    expect((await answered(3))[2].kind).toBe('combine');
  });

  test('a relay whose home goes away before its own part is computed is not kept', async () => {
    const relays = (server as unknown as { served: { relays: ReadonlySet<unknown> } }).served.relays;
    let forwarded = 0;
    await network.listen('memory://w4', options, (incoming) => incoming.onFrame(() => forwarded++));
    onDialled = (made) => {
      const send = made.send.bind(made);
      made.send = (frame) => {
        network.sever('memory://server');
        return send(frame);
      };
    };
    exchange.announce([{ worker: 4, dataAddresses: ['memory://w4'] }]);
    await exchange.connecting;
    link.send(dispatch({ scope: 'node' }, [0, 2]));
    await link.closed;
    while (forwarded === 0) await new Promise((resolve) => setImmediate(resolve));
    expect(relays.size).toBe(0);
  });

  test('frames that the kernels refuse are answered so, and those after them as ever', async () => {
    native.expertsRun = () => {
      native.expertsRun = toyNative.expertsRun;
      throw new Error('kernels refuse');
    };
    link.send(dispatch());
    expect((await answered(1))[0]).toMatchObject({ kind: 'error', code: 'internal', message: 'kernels refuse', source: 5, tag: 11 });
    link.send(dispatch({ tag: 12 }));
    expect((await answered(2))[1]).toMatchObject({ kind: 'combine', tag: 12 });
  });

  test('a home that has gone is not kept', async () => {
    const { clients } = server as unknown as { clients: ReadonlySet<unknown> };
    expect(clients.size).toBe(1);
    await link.close();
    for (let i = 0; i < 5; i++) await new Promise((resolve) => setImmediate(resolve));
    expect(clients.size).toBe(0);
  });

  test('is left in peace while nobody has asked of late, or nobody is there', async () => {
    expect(server.quietInMs(performance.now())).toBe(0);
    let whileComputing = 0;
    native.expertsRun = (...args) => {
      whileComputing = server.quietInMs(Number.POSITIVE_INFINITY);
      toyNative.expertsRun(...args);
    };
    const before = performance.now();
    link.send(dispatch());
    await answered(1);
    expect(whileComputing).toBe(1000);
    const after = performance.now();
    expect(server.quietInMs(before + 900)).toBeGreaterThanOrEqual(100);
    expect(server.quietInMs(after + 900)).toBeLessThanOrEqual(100);
    expect(server.quietInMs(after + 1000)).toBe(0);
    await link.close();
    for (let i = 0; i < 5; i++) await new Promise((resolve) => setImmediate(resolve));
    expect(server.quietInMs(before)).toBe(0);
  });

  test('what a model needed is let go with it', async () => {
    const held = new Set<unknown>();
    const holding = <T>(made: T): T => {
      held.add(made);
      return made;
    };
    native.bufferCreate = (...args) => holding(toyNative.bufferCreate(...args));
    native.sumCreate = (...args) => holding(toyNative.sumCreate(...args));
    native.objectFree = (object) => void held.delete(object);
    serve();
    const { size } = held;
    expect(size).toBeGreaterThan(0);
    serve();
    expect(held.size).toBe(size);
    await server.close();
    expect(held.size).toBe(0);
    expect(await link.closed).toBeNull();
  });

  test('before a model is loaded it says so', async () => {
    server.serve(null);
    link.send(dispatch());
    expect((await answered(1))[0]).toMatchObject({ kind: 'error', code: 'not_ready' });
  });

  test('bytes that are no frame close the link', async () => {
    const bytes = dispatch();
    bytes[70] ^= 1;
    link.send(bytes);
    expect((await link.closed)?.code).toBe('link_closed');
  });

  test('an answer where a question belongs closes the link', async () => {
    link.send(dispatch());
    const [answer] = await answered(1);
    link.send((answer as { bytes: Uint8Array }).bytes);
    expect((await link.closed)?.code).toBe('link_closed');
  });

  test('a home that never waits for answers is cut off', async () => {
    for (let tag = 0; tag <= limits.framesInFlightMax; tag++) link.send(dispatch({ tag }));
    const reason: SwitchyardError | null = await link.closed;
    expect(reason?.code).toBe('link_closed');
  });
});

/** The server's end of a link to a home whose frames and room the test decides. */
class HeldLink {
  readonly answers: Frame[] = [];
  /** Whether it holds no more than it may. */
  room = true;
  /** Whether the server reads nothing more of it. */
  paused = false;
  onAnswer = (_answer: Frame) => {};
  private receive: (frame: Uint8Array) => void = () => {};
  private waiting: (() => void)[] = [];

  readonly end = {
    closed: new Promise(() => {}),
    onFrame: (receive: (frame: Uint8Array) => void) => {
      this.receive = receive;
    },
    send: (bytes: Uint8Array) => {
      const answer = parseFrame(bytes);
      this.answers.push(answer);
      this.onAnswer(answer);
      return this.room;
    },
    drained: () => new Promise<void>((resolve) => this.waiting.push(resolve)),
    pause: () => {
      this.paused = true;
    },
    resume: () => {
      this.paused = false;
    },
    close: async () => {},
  } as unknown as Link;

  ask(tag: number, overrides: Partial<DispatchHeader> = {}): void {
    this.receive(dispatch({ tag, ...overrides }));
  }

  drain(): void {
    this.room = true;
    for (const resolve of this.waiting.splice(0)) resolve();
  }

  get tags(): number[] {
    return this.answers.map(({ tag }) => tag);
  }
}

describe('ExpertServer, between homes', () => {
  const rows = 200;
  let server: ExpertServer;
  let exchange: Exchange;
  let common: Omit<ServedModel, 'gateway'>;

  beforeEach(() => {
    server = new ExpertServer();
    const hosted = [0, 1];
    const model = toyModel({ ...shape, maxRows: rows }, [hosted, hosted]);
    const counters = new Counters(shape.moeLayers, shape.experts);
    common = { native: toyNative, model, epoch: 7, worker: 5, maxRows: rows, counters, times: new TimeSplit() };
    exchange = new Exchange({ ...common, plan, rowDeadlineMs: 20_000, dial: () => Promise.reject(new Error('nobody')) });
    server.serve({ ...common, gateway: exchange.gateway });
  });

  afterEach(async () => {
    await exchange.close();
    await server.close();
  });

  const accept = (): HeldLink => {
    const link = new HeldLink();
    server.accept(link.end);
    return link;
  };
  const settle = async () => {
    for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve));
  };

  test('one that takes no answers has no more made for it until it does, and others do not wait for it', async () => {
    const [slow, quick] = [accept(), accept()];
    slow.room = false;
    slow.ask(1);
    await settle();
    slow.ask(2);
    quick.ask(3);
    await settle();
    expect([slow.tags, quick.tags]).toEqual([[1], [3]]);
    slow.drain();
    await settle();
    expect(slow.tags).toEqual([1, 2]);
  });

  test.each([{}, { epoch: 8 }])('one that asks for more than there is room for waits until it is answered: %o', async (overrides) => {
    server = new ExpertServer(new FrameRoom(1_000));
    server.serve({ ...common, gateway: exchange.gateway });
    exchange.announce([]);
    await settle();
    const home = accept();
    home.ask(1, { rows: 65, pairs: 65, scope: 'node', ...overrides });
    expect(home.paused).toBe(true);
    await settle();
    expect([home.tags, home.paused]).toEqual([[1], false]);
  });

  test('a frame of many rows is passed by eight of few, however many there are', async () => {
    const [prompt, decode] = [accept(), accept()];
    let asked = 0;
    // Whoever is answered asks again at once, so that there is always one that may pass.
    const askAgain = () => {
      if (asked < 30) decode.ask(asked++);
    };
    decode.onAnswer = askAgain;
    let passedBy = -1;
    prompt.onAnswer = () => {
      passedBy = decode.answers.length;
    };
    prompt.ask(100, { rows, layer: 0, pairs: rows });
    askAgain();
    await settle();
    await settle();
    expect(passedBy).toBe(8);
    expect(decode.answers.length).toBe(30);
  });

  test('a frame of few rows does not wait for many of its layer, although all would fit', async () => {
    const [prompt, decode] = [accept(), accept()];
    let promptsBefore = -1;
    // What is computed together is answered in one turn.
    decode.onAnswer = () => queueMicrotask(() => (promptsBefore = prompt.answers.length));
    prompt.ask(1, { rows: 100, layer: 0, pairs: 100 });
    decode.ask(2, { layer: 0 });
    await settle();
    expect([promptsBefore, prompt.tags, decode.tags]).toEqual([0, [1], [2]]);
  });

  test('frames of many rows that waited for one another are passed all the same', async () => {
    const prompts = [accept(), accept()];
    const decode = accept();
    const order: number[] = [];
    for (const home of [...prompts, decode]) home.onAnswer = ({ tag }) => order.push(tag);
    const first = prompts[0].onAnswer;
    prompts[0].onAnswer = (answer) => {
      first(answer);
      if (answer.tag === 9) decode.ask(100);
    };
    for (let tag = 0; tag < 12; tag++) prompts[tag < 6 ? 1 : 0].ask(tag, { rows, layer: 0, pairs: rows });
    await settle();
    expect(order.slice(8, 12)).toEqual([8, 9, 100, 10]);
  });
});
