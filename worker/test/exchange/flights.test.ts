import {
  dispatchFrameBytes,
  type ErrorCode,
  encodeCombineHeader,
  encodeDispatchHeader,
  encodeErrorFrame,
  FRAME_HEADER_BYTES,
  type FrameHeader,
  frameMemory,
  type Link,
  limits,
  MemoryNetwork,
  parseFrame,
  sealFrame,
} from '@switchyard/proto';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { becomes as becomesSo } from '../../../test/becomes.ts';
import { type Cargo, Flights, type Urgency } from '../../src/exchange/flights.ts';

const options = { token: '', tls: null };
const address = 'memory://far';

const headerOf = (tag: number): FrameHeader => ({ epoch: 1, step: 1, layer: 0, source: 0, rows: 1, hidden: 4, numericClass: 3, tag });

function dispatchOf(tag: number): Uint8Array {
  const shape = { rows: 1, pairs: 1, hidden: 4, dtype: 'f32' as const };
  const frame = frameMemory(dispatchFrameBytes(shape));
  const tables = encodeDispatchHeader(frame, { ...headerOf(tag), ...shape, scope: 'worker' });
  tables.pairRow[0] = 0;
  tables.pairExpert[0] = 0;
  tables.pairWeight[0] = 1;
  frame.fill(0, tables.rowsOffset, tables.rowsOffset + tables.rowsBytes);
  sealFrame(frame);
  return frame;
}

const combineOf = (tag: number) => encodeCombineHeader(frameMemory(FRAME_HEADER_BYTES + 16).fill(0), headerOf(tag), 16);

const becomes = (condition: () => boolean) => becomesSo(condition, { everyMs: 0 });

/** Flights to one worker or more at one address, which takes frames and answers when the test says so. */
async function flightsTo(rowDeadlineMs = 20_000, workers = 1) {
  const network = new MemoryNetwork();
  const arrived: number[] = [];
  const ends: string[] = [];
  const avoided: boolean[] = [];
  const cameBy = new Map<number, Link>();
  await network.listen(address, options, (link) =>
    link.onFrame((bytes) => {
      const { tag } = parseFrame(bytes);
      cameBy.set(tag, link);
      arrived.push(tag);
    }),
  );
  const flights = new Flights({
    workers,
    rowDeadlineMs,
    dial: ([to], signal) => network.dial(to, { ...options, signal }),
    onReachable: (_, reachable) => ends.push(reachable ? 'reachable' : 'gone'),
    onAvoided: (_, isAvoided) => avoided.push(isAvoided),
  });
  const send = (urgency: Urgency, worker = 0, scope: Cargo['scope'] = 'worker') => {
    const tag = flights.nextTag();
    const cargo = { scope, landed: () => ends.push(`${tag} landed`), lost: (code: string) => ends.push(`${tag} ${code}`) };
    flights.send(worker, urgency, dispatchOf(tag), tag, 1, cargo);
    return tag;
  };
  const reach = async () => {
    for (let worker = 0; worker < workers; worker++) {
      flights.announce(worker, [address]);
      await flights.settled(worker);
    }
  };
  await reach();
  ends.length = 0;
  return {
    network,
    flights,
    arrived,
    ends,
    avoided,
    send,
    reach,
    answer: (tag: number, frame: Uint8Array) => cameBy.get(tag)!.send(frame),
  };
}

describe('Flights', () => {
  test('hold back what a link may not have unanswered, and let it go one by one as answers come', async () => {
    const { flights, arrived, ends, send, answer } = await flightsTo();
    const most = limits.framesInFlightMax;
    const tags = Array.from({ length: most + 3 }, () => send('urgent'));
    // The other link has a count of its own; what it brings is there after all that could have come before.
    const other = send('bulk');
    await becomes(() => arrived.includes(other));
    expect(arrived).toEqual([...tags.slice(0, most), other]);
    expect(flights.rows[0]).toBe(most + 4);

    answer(tags[2], combineOf(tags[2]));
    await becomes(() => arrived.length === most + 2);
    answer(tags[0], encodeErrorFrame(headerOf(tags[0]), 'queue_full', 'busy'));
    await becomes(() => arrived.length === most + 3);
    const barrier = send('bulk');
    await becomes(() => arrived.includes(barrier));
    expect(arrived.slice(most)).toEqual([other, tags[most], tags[most + 1], barrier]);
    expect(ends).toEqual([`${tags[2]} landed`, `${tags[0]} queue_full`]);
    await flights.close();
  });

  test('lose what is held back with what is on its way when the links break, and begin anew', async () => {
    const { network, flights, arrived, ends, send, reach, answer } = await flightsTo();
    const most = limits.framesInFlightMax;
    for (let life = 0; life < 2; life++) {
      const tags = Array.from({ length: most + 3 }, () => send('urgent'));
      await becomes(() => arrived.length === most);
      network.sever(address);
      const losses = () => ends.filter((end) => end.endsWith('worker_lost'));
      await becomes(() => losses().length === tags.length);
      expect(losses().sort()).toEqual(tags.map((tag) => `${tag} worker_lost`).sort());
      // Who sends again what is lost knows by then that the worker cannot be reached.
      expect(ends[0]).toBe('gone');
      expect(flights.rows[0]).toBe(0);
      await reach();
      ends.length = 0;
      const first = send('urgent');
      await becomes(() => arrived.includes(first));
      // Nothing that was held back left in between.
      expect(arrived.splice(0)).toEqual([...tags.slice(0, most), first]);
      answer(first, combineOf(first));
      await becomes(() => ends.length === 1);
      expect(ends.splice(0)).toEqual([`${first} landed`]);
    }
    await flights.close();
  });

  test.each([
    ['a question', (tag: number) => dispatchOf(tag)],
    ['an answer to nothing that is on its way', (tag: number) => combineOf(tag + 1)],
    ['no frame', () => new Uint8Array(8)],
  ])('are lost with a link on which %s comes', async (_what, made) => {
    const { flights, arrived, ends, send, answer } = await flightsTo();
    const tag = send('urgent');
    await becomes(() => arrived.includes(tag));
    answer(tag, made(tag));
    await becomes(() => ends.length >= 2);
    expect(ends.slice(0, 2)).toEqual(['gone', `${tag} worker_lost`]);
    await flights.close();
  });

  test('are not answered before they have left', async () => {
    const { flights, arrived, ends, send, answer } = await flightsTo();
    const tags = Array.from({ length: limits.framesInFlightMax + 2 }, () => send('urgent'));
    await becomes(() => arrived.length === limits.framesInFlightMax);
    answer(tags[0], combineOf(tags.at(-1)!));
    await becomes(() => ends.length === 1 + tags.length);
    expect(ends).toEqual(['gone', ...tags.map((tag) => `${tag} worker_lost`)]);
    await flights.close();
  });

  test('of one connection are not answered or lost by the other', async () => {
    const { flights, arrived, ends, send, answer } = await flightsTo();
    const [urgent, bulk] = [send('urgent'), send('bulk')];
    await becomes(() => arrived.length === 2);
    // An answer on the wrong connection is an error of the protocol: that connection is cut, and what is on its way by it is lost.
    answer(bulk, combineOf(urgent));
    await becomes(() => ends.length >= 2);
    expect(ends.slice(0, 2)).toEqual(['gone', `${bulk} worker_lost`]);
    answer(urgent, combineOf(urgent));
    await becomes(() => ends.includes(`${urgent} landed`));
    await flights.close();
  });

  test('are not answered by another worker', async () => {
    const { flights, arrived, ends, send, answer } = await flightsTo(20_000, 2);
    const [first, second] = [send('urgent', 0), send('urgent', 1)];
    await becomes(() => arrived.length === 2);
    answer(second, combineOf(first));
    await becomes(() => ends.length >= 2);
    expect(ends.slice(0, 2)).toEqual(['gone', `${second} worker_lost`]);
    answer(first, combineOf(first));
    await becomes(() => ends.includes(`${first} landed`));
    await flights.close();
  });

  test('go only where both connections stand', async () => {
    const network = new MemoryNetwork();
    await network.listen(address, options, () => {});
    const events: boolean[] = [];
    const gates: (() => void)[] = [];
    const flights = new Flights({
      workers: 1,
      rowDeadlineMs: 20_000,
      dial: async ([to], signal) => {
        await new Promise<void>((resolve) => gates.push(resolve));
        return network.dial(to, { ...options, signal });
      },
      onReachable: (_, reachable) => events.push(reachable),
      onAvoided: () => {},
    });
    flights.announce(0, [address]);
    let settled = false;
    void flights.settled(0).then(() => {
      settled = true;
    });
    gates[0]();
    for (let i = 0; i < 5; i++) await new Promise((resolve) => setImmediate(resolve));
    expect({ events, settled }).toEqual({ events: [], settled: false });
    gates[1]();
    await becomes(() => settled);
    expect(events).toEqual([true]);
    await flights.close();
  });

  test('are counted over both connections', async () => {
    const { flights, arrived, send, ends, answer } = await flightsTo();
    const tags = [send('urgent'), send('bulk'), send('bulk')];
    await becomes(() => arrived.length === 3);
    await new Promise((resolve) => setTimeout(resolve, 20));
    for (const tag of tags) answer(tag, combineOf(tag));
    await becomes(() => ends.length === 3);
    const [stats] = flights.stats();
    const [sent, received] = [dispatchOf(1), combineOf(1)].map(({ length }) => 3 * length);
    expect(stats).toMatchObject({ peer: 0, transport: 'memory', bytesSent: sent, bytesReceived: received, framesSent: 3, roundTrips: 3 });
    expect(stats.roundTripSeconds).toBeGreaterThan(3 * 0.019);
    expect(stats.roundTripSeconds).toBeLessThan(3);
    await flights.close();
  });

  test('that are late cut both connections of the worker that stands still, and it is asked last', async () => {
    const { flights, arrived, ends, avoided, send } = await flightsTo(100);
    const late = send('bulk');
    await becomes(() => arrived.length === 1);
    await new Promise((resolve) => setTimeout(resolve, 60));
    const other = send('urgent');
    await becomes(() => ends.includes(`${late} deadline_exceeded`));
    for (let i = 0; i < 5; i++) await new Promise((resolve) => setImmediate(resolve));
    expect(ends).toContain(`${other} deadline_exceeded`);
    expect(avoided).toEqual([true]);
    await flights.close();
  });

  test('are late with those that are held back behind them', async () => {
    const { flights, ends, send } = await flightsTo(100);
    const tags = Array.from({ length: limits.framesInFlightMax + 2 }, () => send('bulk'));
    const losses = () => ends.filter((end) => /^\d/.test(end));
    await becomes(() => losses().length === tags.length);
    expect(losses()).toEqual(tags.map((tag) => `${tag} deadline_exceeded`));
    await flights.close();
  });

  describe('of a worker that refuses', () => {
    beforeEach(() => {
      vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    });
    afterEach(() => {
      vi.useRealTimers();
    });

    const refused = async (code: ErrorCode, scope?: Cargo['scope']) => {
      const made = await flightsTo();
      const { arrived, ends, send, answer } = made;
      const tag = send('urgent', 0, scope);
      await becomes(() => arrived.includes(tag));
      answer(tag, encodeErrorFrame(headerOf(tag), code, 'not now'));
      await becomes(() => ends.includes(`${tag} ${code}`));
      return made;
    };

    test.each(['not_ready', 'bad_plan', 'version_mismatch', 'shutting_down'] as const)(
      'for its own sake (%s) others find it avoided for a second',
      async (code) => {
        const { flights, avoided } = await refused(code);
        await vi.advanceTimersByTimeAsync(999);
        expect(avoided).toEqual([true]);
        await vi.advanceTimersByTimeAsync(1);
        expect(avoided).toEqual([true, false]);
        await flights.close();
      },
    );

    test('others find it avoided no longer than until it is announced', async () => {
      const { flights, avoided } = await refused('not_ready');
      flights.announce(0, [address]);
      expect(avoided).toEqual([true, false]);
      expect(vi.getTimerCount()).toBe(0);
      await flights.close();
    });

    test.each([
      ['queue_full', 'worker'],
      ['expert_unavailable', 'worker'],
      ['not_ready', 'node'],
    ] as const)('because it is full, lacks an expert, or speaks for its node (%s, %s) others do not', async (code, scope) => {
      const { flights, avoided } = await refused(code, scope);
      expect(avoided).toEqual([]);
      await flights.close();
    });
  });

  test('leave nothing behind once they are closed', async () => {
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval', 'setTimeout', 'clearTimeout'] });
    const { flights, arrived, ends, send } = await flightsTo();
    const tag = send('urgent');
    await becomes(() => arrived.includes(tag));
    await flights.close();
    await becomes(() => ends.includes(`${tag} worker_lost`));
    expect(vi.getTimerCount()).toBe(0);
    vi.useRealTimers();
  });

  test('are not late for the time in which this process stood still', async () => {
    const { flights, arrived, ends, send, answer } = await flightsTo(400);
    const tag = send('urgent');
    await becomes(() => arrived.includes(tag));
    answer(tag, combineOf(tag));
    standStill(600);
    await becomes(() => ends.length === 1);
    expect(ends).toEqual([`${tag} landed`]);
    await flights.close();
  });

  test('are late when the worker is, however often this process stood still', async () => {
    const { flights, arrived, ends, send } = await flightsTo(400);
    const tag = send('urgent');
    await becomes(() => arrived.includes(tag));
    const startedMs = performance.now();
    for (let stops = 0; ends.length < 2; stops++) {
      if (stops < 3) standStill(300);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    expect(ends.filter((end) => end !== 'gone')).toEqual([`${tag} deadline_exceeded`]);
    expect(performance.now() - startedMs).toBeGreaterThan(900);
    await flights.close();
  });
});

/** As a process that is stopped, or busy in one long call. */
function standStill(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}
