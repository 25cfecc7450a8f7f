import type { Native } from '@switchyard/native';
import {
  type DispatchFrame,
  type ErrorCode,
  encodeCombineHeader,
  encodeErrorFrame,
  FRAME_HEADER_BYTES,
  frameMemory,
  type Link,
  MemoryNetwork,
  type Plan,
  parseFrame,
  type SwitchyardError,
} from '@switchyard/proto';
import { afterEach, describe, expect, test } from 'vitest';
import { Counters } from '../../src/engine/counters.ts';
import { SequenceTraffic } from '../../src/engine/sequence-traffic.ts';
import type { StepBatch } from '../../src/engine/step-batch.ts';
import { TimeSplit } from '../../src/engine/time-split.ts';
import { ExpertRoutes } from '../../src/exchange/expert-routes.ts';
import { Flights } from '../../src/exchange/flights.ts';
import { HomeExchange } from '../../src/exchange/home-exchange.ts';
import { toyModel, toyNative } from '../engine/toy-model.ts';

const HIDDEN = 4;
const shape = { experts: 3, topK: 1, moeLayers: 2, kvBlocks: 4, maxRows: 160, maxSequences: 2, maxLogitRows: 2, maxContext: 64 };
const options = { token: '', tls: null };

/** What a worker may say of itself or of a neighbour, and what a client is told where nobody else has the expert. */
const aboutOnePeer: readonly [ErrorCode, ErrorCode][] = [
  ['bad_plan', 'expert_unavailable'],
  ['version_mismatch', 'expert_unavailable'],
  ['not_ready', 'expert_unavailable'],
  ['shutting_down', 'expert_unavailable'],
  ['queue_full', 'expert_unavailable'],
  ['expert_unavailable', 'expert_unavailable'],
  ['worker_lost', 'worker_lost'],
  ['link_closed', 'link_closed'],
  ['deadline_exceeded', 'deadline_exceeded'],
];

/** A frame that reached a worker, and the connection that brought it. */
interface Arrival {
  worker: number;
  frame: DispatchFrame;
  link: Link;
}

/** Expert 0 is the home's own, expert 1 on the others both, expert 2 on worker 1 alone. */
const oneEach = { nodeOf: [0, 1, 2], holders: [[0], [1, 2], [1]] };

/** A home, worker 0 of these nodes. The others answer when the test says so. */
async function startHome(native: Partial<Native> = {}, { nodeOf, holders } = oneEach) {
  const network = new MemoryNetwork();
  const arrived: Arrival[] = [];
  const dialled: Link[] = [];
  const plan: Plan = {
    format: 'switchyard-plan',
    version: 1,
    model: { type: 'toy', moeLayers: [1, 2], experts: holders.length },
    workers: nodeOf.map((node, w) => ({ name: `w${w}`, node })),
    replicas: Array.from({ length: shape.moeLayers }, () => holders),
    provenance: null,
  };
  const others = nodeOf.map((_, worker) => worker).slice(1);
  for (const worker of others) {
    await network.listen(`memory://w${worker}`, options, (link) =>
      link.onFrame((bytes) => {
        const frame = parseFrame(bytes);
        if (frame.kind === 'dispatch') arrived.push({ worker, frame, link });
      }),
    );
  }
  const model = toyModel({ ...shape, experts: holders.length }, [[0], [0]]);
  const routes = new ExpertRoutes(plan, 0, shape.topK);
  const flights = new Flights({
    workers: nodeOf.length,
    rowDeadlineMs: 20_000,
    dial: async ([to], signal) => {
      const link = await network.dial(to, { ...options, signal });
      dialled.push(link);
      return link;
    },
    onReachable: (worker, reachable) => routes.setReachable(worker, reachable),
    onAvoided: (worker, avoided) => routes.setAvoided(worker, avoided),
  });
  for (const worker of others) {
    flights.announce(worker, [`memory://w${worker}`]);
    await flights.settled(worker);
  }
  const counters = new Counters(shape.moeLayers, holders.length);
  const times = new TimeSplit();
  const lane = model.lanes[1]; // of prompts: it takes more rows than a decode's
  const home = new HomeExchange({ native: { ...toyNative, ...native }, model, routes, flights, epoch: 7, counters, times }, lane);
  /** Rows of a layer, each with its expert; `failures` tells what became of them. */
  const run = (layer: number, experts: number[]) => {
    const failures: (SwitchyardError | null)[] = experts.map(() => null);
    const bills = experts.map(() => new SequenceTraffic());
    lane.moe[layer].ids.i32.set(experts);
    lane.moe[layer].weights.f32.fill(0.5, 0, experts.length);
    const batch = {
      rows: experts.length,
      failed: (row: number) => failures[row] !== null,
      fail: (row: number, error: SwitchyardError) => {
        failures[row] ??= error;
      },
      traffic: (row: number) => bills[row],
    } as unknown as StepBatch;
    return { done: home.runLayer(layer, batch) ?? Promise.resolve(), failures, bills };
  };
  const nextArrival = async (): Promise<Arrival> => {
    while (arrived.length === 0) await turn();
    return arrived.shift()!;
  };
  return { flights, run, arrived, dialled, nextArrival, sums: (lane.moe[0].sum as unknown as { values: Int32Array }).values };
}

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

/** Sums of ones, of so many rows and columns in so many bytes. */
function answer(
  { frame, link }: Arrival,
  { rows = frame.rows, hidden = frame.hidden, bytes = rows * hidden * 4 }: { rows?: number; hidden?: number; bytes?: number } = {},
): void {
  const made = frameMemory(FRAME_HEADER_BYTES + bytes);
  new Int32Array(made.buffer, made.byteOffset + FRAME_HEADER_BYTES, bytes / 4).fill(1);
  link.send(encodeCombineHeader(made, { ...frame, rows, hidden }, bytes));
}

function refuse({ frame, link }: Arrival, code: ErrorCode): void {
  link.send(encodeErrorFrame(frame, code, 'not now'));
}

describe('HomeExchange', () => {
  let flights: Flights | null = null;
  afterEach(() => flights?.close());

  const start = async (native?: Partial<Native>, layout?: typeof oneEach) => {
    const home = await startHome(native, layout);
    flights = home.flights;
    return home;
  };

  test('frames of all layers of a step say which step, and those of the next another', async () => {
    const { run, nextArrival } = await start();
    const steps: number[] = [];
    for (const layer of [0, 1, 0]) {
      const { done } = run(layer, [2]);
      const arrival = await nextArrival();
      steps.push(arrival.frame.step);
      answer(arrival);
      await done;
    }
    expect(steps).toEqual([1, 1, 2]);
  });

  test('own experts begin when the rows of others have left', async () => {
    const order: string[] = [];
    const { run, arrived, nextArrival } = await start({
      expertsRun: () => void order.push(`own experts after ${arrived.length} frames`),
    });
    const { done } = run(0, [0, 2]);
    answer(await nextArrival());
    await done;
    expect(order).toEqual(['own experts after 1 frames']);
  });

  test('a layer whose own experts fail ends when nothing of it is on its way any more', async () => {
    const { run, nextArrival } = await start({
      expertsRun: () => {
        throw new Error('kernels refuse');
      },
    });
    const { done } = run(0, [0, 2]);
    let ended: unknown = null;
    void done.catch((error: Error) => {
      ended = error.message;
    });
    const arrival = await nextArrival();
    for (let i = 0; i < 5; i++) await turn();
    expect(ended).toBeNull();
    answer(arrival);
    await expect(done).rejects.toThrow('kernels refuse');
  });

  test.each([
    ['rows', { rows: 2 }, 'an answer of 2 rows of 4 to 1 of 4'],
    ['columns', { hidden: 8, bytes: HIDDEN * 4 }, 'an answer of 1 rows of 8 to 1 of 4'],
  ])('an answer of other %s is not added', async (_what, other, message) => {
    const { run, nextArrival, sums } = await start();
    const { done, failures } = run(0, [2]);
    answer(await nextArrival(), other);
    await done;
    expect(failures[0]).toMatchObject({ code: 'worker_lost', message: expect.stringContaining(message) });
    expect([...sums.subarray(0, HIDDEN)]).toEqual([0, 0, 0, 0]);
  });

  test('rows are billed for frames that have left, and not for one that no link took', async () => {
    const { run, dialled, nextArrival } = await start();
    for (const link of dialled.filter(({ peer }) => peer === 'memory://w1'))
      link.send = () => {
        throw new Error('closed just now');
      };
    const { done, bills } = run(0, [1]);
    const arrival = await nextArrival();
    expect(arrival.worker).toBe(2);
    expect(bills[0].interNodeBytes).toBe(arrival.frame.bytes.length);
    answer(arrival);
    await done;
    expect(bills[0].interNodeBytes).toBe(arrival.frame.bytes.length + FRAME_HEADER_BYTES + HIDDEN * 4);
  });

  test('whoever refuses is not asked again, but for a gateway that may have refused for a neighbour', async () => {
    const { run, arrived, nextArrival } = await start();
    const { done, failures } = run(0, [1]);
    const asked: string[] = [];
    let over = false;
    void done.then(() => {
      over = true;
    });
    while (!over && asked.length < 10) {
      if (arrived.length > 0) {
        const arrival = await nextArrival();
        asked.push(`${arrival.frame.scope} ${arrival.worker}`);
        refuse(arrival, 'not_ready');
      }
      await turn();
    }
    expect(asked).toEqual(['node 1', 'worker 2', 'worker 1']);
    // The home itself is ready: only the expert is not to be had.
    expect(failures[0]).toMatchObject({ code: 'expert_unavailable', message: 'worker w1, layer 1: not now' });
  });

  test('after a gateway failed, its neighbours are asked when nobody else is left, each once', async () => {
    // Workers 1 and 2 are a node. Expert 2 is on worker 2 and, on another node, on worker 3, which has more to do.
    const { run, arrived } = await start({}, { nodeOf: [0, 1, 1, 2], holders: [[0], [1], [2, 3], [3]] });
    const { done, failures } = run(0, [2, 1, 3, 3]);
    const asked: string[] = [];
    let over = false;
    void done.then(() => {
      over = true;
    });
    while (!over) {
      for (const arrival of arrived.splice(0)) {
        const { worker, frame } = arrival;
        asked.push(`${frame.scope} ${worker} for ${[...frame.pairExpert]}`);
        if (frame.pairExpert.includes(2)) refuse(arrival, 'deadline_exceeded');
        else answer(arrival);
      }
      await turn();
    }
    expect(asked.slice(0, 2).sort()).toEqual(['node 1 for 2,1', 'node 3 for 3,3']);
    expect(asked.slice(2, 4).sort()).toEqual(['worker 1 for 1', 'worker 3 for 2']);
    expect(asked.slice(4)).toEqual(['worker 2 for 2']);
    expect(failures).toEqual([
      expect.objectContaining({ code: 'deadline_exceeded', message: 'worker w2, layer 1: not now' }),
      null,
      null,
      null,
    ]);
  });

  test.each(aboutOnePeer)(
    '%s speaks of one worker: another is asked, and where none is left neither the client nor its home is blamed',
    async (code, said) => {
      const { run, arrived, nextArrival, sums } = await start();
      const { done, failures } = run(0, [1, 2]);
      refuse(await nextArrival(), code);
      // Both rows were in that frame. One of them only worker 1 can compute.
      while (arrived.length < 2) await turn();
      for (const arrival of arrived.splice(0)) {
        if (arrival.worker === 1) refuse(arrival, code);
        else answer(arrival);
      }
      await done;
      expect(failures).toEqual([null, expect.objectContaining({ code: said, message: 'worker w1, layer 1: not now' })]);
      expect([...sums.subarray(0, 2 * HIDDEN)]).toEqual([1, 1, 1, 1, 0, 0, 0, 0]);
    },
  );

  test('whoever refused for its own sake is asked last in the layers after, and first for what nobody else has', async () => {
    const { run, arrived } = await start({}, { nodeOf: [0, 0, 0], holders: [[0], [1, 2], [1]] });
    const asked: string[] = [];
    for (const [layer, experts] of [
      [0, [1]],
      [1, [1]],
      [0, [2]],
    ] as const) {
      let over = false;
      void run(layer, [...experts]).done.then(() => {
        over = true;
      });
      while (!over) {
        for (const arrival of arrived.splice(0)) {
          asked.push(`worker ${arrival.worker} in layer ${layer} for ${arrival.frame.pairExpert[0]}`);
          if (arrival.worker === 1) refuse(arrival, 'not_ready');
          else answer(arrival);
        }
        await turn();
      }
    }
    expect(asked).toEqual([
      'worker 1 in layer 0 for 1',
      'worker 2 in layer 0 for 1',
      'worker 2 in layer 1 for 1',
      'worker 1 in layer 0 for 2',
    ]);
  });

  test.each(['internal', 'bad_frame'] as const)('%s would be said anywhere: nobody else is asked', async (code) => {
    const { run, arrived, nextArrival } = await start();
    const { done, failures } = run(0, [1, 0]);
    refuse(await nextArrival(), code);
    await done;
    for (let i = 0; i < 5; i++) await turn();
    expect(arrived).toEqual([]);
    expect(failures).toEqual([expect.objectContaining({ code, message: 'worker w1, layer 1: not now' }), null]);
  });

  test('rows that cannot be encoded fail, and no others', async () => {
    const { run } = await start({
      rowsEncode: () => {
        throw new Error('kernels refuse');
      },
    });
    const { done, failures } = run(0, [0, 2]);
    await done;
    expect(failures).toEqual([null, expect.objectContaining({ code: 'internal', message: 'worker w1, layer 1: kernels refuse' })]);
  });

  test('frames of more than 64 rows have a connection of their own', async () => {
    const { run, nextArrival } = await start();
    const links: Link[] = [];
    for (const rows of [1, 64, 65, 80]) {
      const { done } = run(0, new Array(rows).fill(2));
      const arrival = await nextArrival();
      links.push(arrival.link);
      answer(arrival);
      await done;
    }
    expect(links[1]).toBe(links[0]);
    expect(links[2]).not.toBe(links[0]);
    expect(links[3]).toBe(links[2]);
  });
});
