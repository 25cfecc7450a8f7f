import {
  dispatchFrameBytes,
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
import { describe, expect, test } from 'vitest';
import { Flights, type Urgency } from '../../src/exchange/flights.ts';

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

async function becomes(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setImmediate(resolve));
}

/** Flights to one worker, which takes frames and answers when the test says so. */
async function flightsTo(rowDeadlineMs = 20_000) {
  const network = new MemoryNetwork();
  const arrived: number[] = [];
  const cameBy = new Map<number, Link>();
  await network.listen(address, options, (link) =>
    link.onFrame((bytes) => {
      const { tag } = parseFrame(bytes);
      cameBy.set(tag, link);
      arrived.push(tag);
    }),
  );
  const flights = new Flights({
    workers: 1,
    rowDeadlineMs,
    dial: ([to], signal) => network.dial(to, { ...options, signal }),
    onReachable: () => {},
  });
  const ends: string[] = [];
  const send = (urgency: Urgency) => {
    const tag = flights.nextTag();
    const cargo = { landed: () => ends.push(`${tag} landed`), lost: (code: string) => ends.push(`${tag} ${code}`) };
    flights.send(0, urgency, dispatchOf(tag), tag, 1, cargo);
    return tag;
  };
  const reach = async () => {
    flights.announce(0, [address]);
    await flights.settled(0);
  };
  await reach();
  return { network, flights, arrived, ends, send, reach, answer: (tag: number, frame: Uint8Array) => cameBy.get(tag)!.send(frame) };
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
      await becomes(() => ends.length === tags.length);
      expect(ends.splice(0).sort()).toEqual(tags.map((tag) => `${tag} worker_lost`).sort());
      expect(flights.rows[0]).toBe(0);
      await reach();
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
    for (let stops = 0; ends.length === 0; stops++) {
      if (stops < 3) standStill(300);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    expect(ends).toEqual([`${tag} deadline_exceeded`]);
    expect(performance.now() - startedMs).toBeGreaterThan(900);
    await flights.close();
  });
});

/** As a process that is stopped, or busy in one long call. */
function standStill(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}
