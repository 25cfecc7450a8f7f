import type { Native } from '@switchyard/native';
import {
  type CombineFrame,
  type DispatchFrame,
  dispatchFrameBytes,
  type ErrorCode,
  encodeCombineHeader,
  encodeDispatchHeader,
  encodeErrorFrame,
  FRAME_HEADER_BYTES,
  type Frame,
  type FrameScope,
  frameMemory,
  type Link,
  MemoryNetwork,
  type Plan,
  parseFrame,
  sealFrame,
} from '@switchyard/proto';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { becomes as becomesSo } from '../../../test/becomes.ts';
import { Counters } from '../../src/engine/counters.ts';
import { TimeSplit } from '../../src/engine/time-split.ts';
import { Exchange, type ExchangeOptions } from '../../src/exchange/exchange.ts';
import { ExpertServer } from '../../src/exchange/expert-server.ts';
import type { Relay } from '../../src/exchange/node-gateway.ts';
import type { Dial } from '../../src/exchange/peer-links.ts';
import { toyModel, toyNative } from '../engine/toy-model.ts';

const HIDDEN = 4;
const holders = [[0], [1], [2], [3], [0, 1], [1, 2], [1, 3]];
const shape = {
  experts: holders.length,
  topK: 2,
  moeLayers: 2,
  kvBlocks: 4,
  maxRows: 80,
  maxSequences: 2,
  maxLogitRows: 2,
  maxContext: 64,
};
const options = { token: '', tls: null };
/** The gateway is worker 0; 1 and 2 are its neighbours, 3 is elsewhere. */
const plan: Plan = {
  format: 'switchyard-plan',
  version: 1,
  model: { type: 'toy', moeLayers: [1, 2], experts: shape.experts },
  workers: [0, 0, 0, 1].map((node, w) => ({ name: `w${w}`, node })),
  replicas: Array.from({ length: shape.moeLayers }, () => holders),
  provenance: null,
};
const own = holders.flatMap((workers, e) => (workers.includes(0) ? [e] : []));

/** A frame of one pair a row, unless `rowOf` says another row for a pair. */
function dispatch(tag: number, scope: FrameScope, experts: number[], layer = 1, rowOf = (pair: number) => pair): Uint8Array {
  const rows = experts.length;
  const header = { epoch: 7, step: 1, layer, source: 3, rows, pairs: rows, hidden: HIDDEN, numericClass: 3, dtype: 'f32', tag } as const;
  const frame = frameMemory(dispatchFrameBytes(header));
  const tables = encodeDispatchHeader(frame, { ...header, scope });
  for (let p = 0; p < rows; p++) {
    tables.pairRow[p] = rowOf(p);
    tables.pairExpert[p] = experts[p];
    tables.pairWeight[p] = 0.5;
  }
  frame.fill(1, tables.rowsOffset, tables.rowsOffset + tables.rowsBytes);
  sealFrame(frame);
  return frame;
}

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));
const becomes = (condition: () => boolean) => becomesSo(condition, { everyMs: 0 });
/** As many turns as frames need that nothing holds back. */
const settle = async () => {
  for (let i = 0; i < 10; i++) await turn();
};

describe('a relayed frame', () => {
  let server: ExpertServer;
  let exchange: Exchange;
  let home: Link;
  let answers: Frame[];
  /** What was sent on, in order; the neighbours answer when the test says so. */
  let forwarded: { worker: number; frame: DispatchFrame; link: Link }[];
  /** The gateway's connections to its neighbours. */
  let dialled: Link[];
  let serve: () => void;
  let native: Native;
  let common: Omit<ExchangeOptions, 'plan' | 'rowDeadlineMs' | 'dial'>;
  let create: () => Exchange;
  const neighbours = [1, 2, 3].map((worker) => ({ worker, dataAddresses: [`memory://w${worker}`] }));

  beforeEach(async () => {
    const network = new MemoryNetwork();
    answers = [];
    forwarded = [];
    for (const worker of [1, 2, 3]) {
      await network.listen(`memory://w${worker}`, options, (link) =>
        link.onFrame((bytes) => {
          const frame = parseFrame(bytes);
          if (frame.kind === 'dispatch') forwarded.push({ worker, frame, link });
        }),
      );
    }
    server = new ExpertServer();
    native = { ...toyNative };
    common = {
      native,
      model: toyModel(shape, [own, own]),
      epoch: 7,
      worker: 0,
      maxRows: shape.maxRows,
      counters: new Counters(shape.moeLayers, shape.experts),
      times: new TimeSplit(),
    };
    dialled = [];
    const dial: Dial = async ([to], signal) => {
      const link = await network.dial(to, { ...options, signal });
      dialled.push(link);
      return link;
    };
    create = () => new Exchange({ ...common, plan, rowDeadlineMs: 20_000, dial });
    exchange = create();
    exchange.announce(neighbours);
    await exchange.connecting;
    serve = () => server.serve({ ...common, gateway: exchange.gateway });
    serve();
    await network.listen('memory://gateway', options, (link) => server.accept(link));
    home = await network.dial('memory://gateway', options);
    home.onFrame((bytes) => answers.push(parseFrame(bytes)));
  });

  afterEach(async () => {
    await exchange.close();
    await server.close();
  });

  const answer = (at: number, { rows = forwarded[at].frame.rows, hidden = HIDDEN, bytes = forwarded[at].frame.rows * HIDDEN * 4 } = {}) => {
    const { frame, link } = forwarded[at];
    link.send(encodeCombineHeader(frameMemory(FRAME_HEADER_BYTES + bytes).fill(1), { ...frame, rows, hidden }, bytes));
  };
  const refuse = (at: number, code: ErrorCode) => forwarded[at].link.send(encodeErrorFrame(forwarded[at].frame, code, 'not now'));
  /** Who is asked for the rows of these experts. */
  const askedFor = async (tag: number, experts: number[]): Promise<number[]> => {
    const before = forwarded.length;
    home.send(dispatch(tag, 'node', experts));
    await settle();
    return forwarded.slice(before).map(({ worker }) => worker);
  };

  test('is answered once when all parts are there', async () => {
    expect(await askedFor(1, [0, 1, 2])).toEqual([1, 2]);
    // Of the same epoch, step and layer; made here, for the neighbour alone.
    for (const { frame } of forwarded) expect(frame).toMatchObject({ epoch: 7, step: 1, layer: 1, source: 0, rows: 1, scope: 'worker' });
    answer(1);
    await settle();
    expect(answers).toEqual([]);
    answer(0);
    await becomes(() => answers.length === 1);
    expect(answers[0]).toMatchObject({ kind: 'combine', rows: 3, tag: 1, source: 0 });
    expect((server as unknown as { served: { relays: ReadonlySet<unknown> } }).served.relays.size).toBe(0);
  });

  test('has the same answer whichever of its parts comes last, and no sums pass through memory that need not', async () => {
    const answered = async (tag: number): Promise<string> => {
      await becomes(() => answers.some((each) => each.tag === tag));
      const { bytes, sumOffset } = answers.find((each) => each.tag === tag) as CombineFrame;
      return Buffer.from(bytes.subarray(sumOffset)).toString('hex');
    };
    const passes = { encode: 0, add: 0 };
    native.sumEncode = (...args) => {
      passes.encode++;
      return toyNative.sumEncode(...args);
    };
    native.sumAddEncoded = (...args) => {
      passes.add++;
      toyNative.sumAddEncoded(...args);
    };
    await askedFor(1, [1, 0, 0, 1]);
    answer(0);
    const ownFirst = await answered(1);
    // Its own part is put aside, and both are put together.
    expect(passes).toEqual({ encode: 2, add: 2 });
    // Frames before it have turns of their own, and one shares the turn of its own part.
    for (const tag of [2, 3, 4, 5]) home.send(dispatch(tag, 'worker', new Array(64).fill(0), 0));
    home.send(dispatch(6, 'worker', [0, 4, 0]));
    home.send(dispatch(7, 'node', [1, 0, 0, 1]));
    await becomes(() => forwarded.length === 2);
    answer(1);
    expect(await answered(7)).toBe(ownFirst);
    expect(answers.length).toBe(7);
    // One encoding each answer; the neighbour's part is added to the own sums.
    expect(passes).toEqual({ encode: 2 + 6, add: 2 + 1 });
    expect((server as unknown as { served: { relays: ReadonlySet<unknown> } }).served.relays.size).toBe(0);
  });

  test('keeps no more of its own part than travels while others are missing', async () => {
    // As kernels have it: sums may take eight bytes a value, and seldom do.
    native.sumEncodedMax = (rows) => rows * HIDDEN * 8;
    const relays = (server as unknown as { served: { relays: ReadonlySet<Relay> } }).served.relays;
    await askedFor(1, [1, 0, 0]);
    expect([...relays].map(({ partials }) => partials.map(({ bytes }) => bytes.length))).toEqual([[3 * HIDDEN * 4]]);
    answer(0);
    await becomes(() => answers.length === 1);
    expect(answers[0].kind).toBe('combine');
  });

  test('waits until the neighbours have been dialled, and is refused when they never will be', async () => {
    for (const [tag, announced] of [
      [1, true],
      [2, false],
    ] as const) {
      const late = create();
      server.serve({ ...common, gateway: late.gateway });
      home.send(dispatch(tag, 'node', [1]));
      await settle();
      expect([forwarded.length, answers.length]).toEqual([0, tag - 1]);
      if (announced) {
        late.announce(neighbours);
        await becomes(() => forwarded.length === 1);
        answer(0);
        forwarded.length = 0;
      } else await late.close();
      await becomes(() => answers.length === tag);
      expect(answers.at(-1)).toMatchObject({ tag, kind: announced ? 'combine' : 'error' });
      await late.close();
    }
  });

  test.each([
    ['while neighbours are dialled', true],
    ['afterwards', false],
  ])('that has too many pairs of one row is refused, and its link stays: %s', async (_when, waits) => {
    const gateway = waits ? create() : exchange;
    server.serve({ ...common, gateway: gateway.gateway });
    // More than any frame for a neighbour may have for one row.
    home.send(dispatch(1, 'node', new Array(40).fill(1), 1, () => 0));
    await settle();
    if (waits) gateway.announce(neighbours);
    await becomes(() => answers.length === 1);
    expect(answers[0]).toMatchObject({
      kind: 'error',
      tag: 1,
      code: 'bad_frame',
      message: expect.stringContaining('row 0 has more than 2'),
    });
    home.send(dispatch(2, 'worker', [0]));
    await becomes(() => answers.length === 2);
    expect([answers[1].kind, forwarded.length]).toEqual(['combine', 0]);
    await gateway.close();
  });

  test('that cannot be sent on once neighbours have been dialled costs its home the link, and no more', async () => {
    const late = create();
    late.gateway.open = () => {
      throw new Error('no memory');
    };
    server.serve({ ...common, gateway: late.gateway });
    home.send(dispatch(1, 'node', [1]));
    await settle();
    late.announce(neighbours);
    expect((await home.closed)?.code).toBe('link_closed');
    await late.close();
  });

  test('of which a part cannot be sent is not sent to others', async () => {
    for (const link of dialled.filter(({ peer }) => peer === 'memory://w1'))
      link.send = () => {
        throw new Error('closed just now');
      };
    expect(await askedFor(1, [1, 2])).toEqual([]);
    expect(answers).toEqual([expect.objectContaining({ kind: 'error', tag: 1, code: 'worker_lost' })]);
    expect(await askedFor(2, [2])).toEqual([2]);
  });

  test('fails once, by the first of its neighbours that refuses', async () => {
    expect(await askedFor(1, [1, 2])).toEqual([1, 2]);
    refuse(1, 'queue_full');
    await becomes(() => answers.length === 1);
    refuse(0, 'internal');
    home.send(dispatch(2, 'worker', [0]));
    await becomes(() => answers.length >= 2);
    expect(answers).toEqual([
      expect.objectContaining({ kind: 'error', tag: 1, code: 'queue_full', message: 'worker w2, layer 2: not now' }),
      expect.objectContaining({ kind: 'combine', tag: 2 }),
    ]);
  });

  test('that was given up with the plan is not answered again when its parts come after all', async () => {
    expect(await askedFor(1, [1, 2])).toEqual([1, 2]);
    serve();
    await becomes(() => answers.length === 1);
    expect(answers[0]).toMatchObject({ kind: 'error', tag: 1, code: 'not_ready' });
    answer(0);
    answer(1);
    home.send(dispatch(2, 'worker', [0]));
    await becomes(() => answers.length >= 2);
    await settle();
    expect(answers.slice(1)).toEqual([expect.objectContaining({ kind: 'combine', tag: 2 })]);
  });

  test.each([
    ['rows', { rows: 2 }, 'an answer of 2 rows of 4 to 1 of 4'],
    ['columns', { hidden: 8 }, 'an answer of 1 rows of 8 to 1 of 4'],
  ])('fails when sums of other %s come for a part of it', async (_what, other, message) => {
    await askedFor(1, [1]);
    answer(0, other);
    await becomes(() => answers.length === 1);
    expect(answers[0]).toMatchObject({ kind: 'error', code: 'worker_lost', message: `worker w1, layer 2: ${message}` });
  });

  test('fails by sums of a neighbour that do not parse, and none beside it does', async () => {
    expect(await askedFor(1, [1])).toEqual([1]);
    answer(0, { bytes: 24 });
    await becomes(() => answers.length === 1);
    // Before the own part of this one other frames are served, each in a turn of its own: it is the last to come.
    const before = [2, 3, 4, 5].map((tag) => dispatch(tag, 'worker', new Array(64).fill(0), 0));
    for (const frame of [...before, dispatch(6, 'node', [0, 1]), dispatch(7, 'worker', [0])]) home.send(frame);
    await becomes(() => forwarded.length === 2);
    answer(1, { bytes: 24 });
    await becomes(() => answers.length === 7);
    expect(answers.filter(({ kind }) => kind === 'error').map(({ tag }) => tag)).toEqual([1, 6]);
    for (const each of answers.filter(({ kind }) => kind === 'error'))
      expect(each).toMatchObject({ code: 'internal', message: '24 bytes of sums for 1 rows', source: 0 });
  });

  test('fails with its own part', async () => {
    native.expertsRun = () => {
      throw new Error('kernels refuse');
    };
    expect(await askedFor(1, [0, 1])).toEqual([1]);
    await becomes(() => answers.length === 1);
    expect(answers[0]).toMatchObject({ kind: 'error', tag: 1, code: 'internal', message: 'kernels refuse' });
  });

  test('never leaves the node again', async () => {
    home.send(dispatch(1, 'node', [3]));
    await becomes(() => answers.length === 1);
    expect(answers[0]).toMatchObject({ kind: 'error', code: 'expert_unavailable', message: expect.stringContaining('w3') });
    // Expert 6 is on worker 3 too, which has nothing to do.
    expect(await askedFor(2, [1, 6, 6])).toEqual([1]);
  });

  test('goes to the replica with the fewest rows, this worker before others and lower numbers before higher ones', async () => {
    expect(await askedFor(1, [4])).toEqual([]);
    expect(await askedFor(2, [5])).toEqual([1]);
    // Worker 1 has a row of that frame.
    expect(await askedFor(3, [5])).toEqual([2]);
    // Both have one; rows of the frame itself count as well.
    expect(await askedFor(4, [5, 5])).toEqual([1, 2]);
    expect(forwarded.slice(-2).map(({ frame }) => frame.rows)).toEqual([1, 1]);
    for (const at of forwarded.keys()) answer(at);
    await becomes(() => answers.length === 4);
    expect(await askedFor(5, [4, 4])).toEqual([1]);
    expect(forwarded.at(-1)!.frame.rows).toBe(1);
  });

  test('counts rows that wait here, as long as they do', async () => {
    const ownOf = (tag: number) => dispatch(tag, 'worker', [0, 0, 0]);
    home.send(ownOf(1));
    home.send(dispatch(2, 'node', [4]));
    await becomes(() => answers.some(({ tag }) => tag === 1));
    await becomes(() => forwarded.length === 1);
    answer(0);
    await becomes(() => answers.length === 2);
    // They are served.
    expect(await askedFor(3, [4])).toEqual([]);
    // They are given up with the plan.
    home.send(ownOf(4));
    await turn();
    serve();
    await becomes(() => answers.some(({ tag }) => tag === 4));
    expect(answers.find(({ tag }) => tag === 4)).toMatchObject({ kind: 'error', code: 'not_ready' });
    expect(await askedFor(5, [4])).toEqual([]);
  });

  test('of more than 64 rows has the connection of large frames, of fewer the other', async () => {
    for (const rows of [1, 64, 65]) expect(await askedFor(rows, new Array(rows).fill(1))).toEqual([1]);
    const [one, most, more] = forwarded.map(({ link }) => link);
    expect(most).toBe(one);
    expect(more).not.toBe(one);
  });
});
