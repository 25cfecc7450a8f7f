import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Place } from '../src/membership/membership.ts';
import type { Answer } from '../src/requests/answer.ts';
import { type Running, WorkerLoads } from '../src/requests/worker-loads.ts';

/** Beyond a batch. */
const MOST = 9;
const places = [0, 1].map((worker) => ({ worker }) as Place);
const running = (worker: number, request: number, promptTokens = 10): Running => ({
  answer: { request } as Answer,
  place: places[worker],
  promptTokens,
  submittedMs: 100 * request,
  moved: false,
  batched: false,
});

describe('what workers have to do', () => {
  it('is what they were given and have not ended', () => {
    const loads = new WorkerLoads(2, 8, MOST);
    const [first, second] = [running(1, 5), running(1, 6, 20)];
    loads.add(first);
    loads.add(second);
    loads.gaveTokens(1, 777);
    const shared = { batched: 0, lastChosen: 6, busySinceMs: 500, tokensAtMs: 777 };
    expect(loads.of(1)).toEqual({ sequences: 2, promptTokens: 30, ...shared });
    loads.promptDone(first);
    loads.promptDone(first);
    expect(loads.of(1)).toEqual({ sequences: 2, promptTokens: 20, ...shared });
    loads.remove(second);
    expect(loads.of(1)).toEqual({ sequences: 1, promptTokens: 0, ...shared });
    loads.remove(first);
    loads.add(running(1, 9));
    expect(loads.of(1)).toEqual({ sequences: 1, promptTokens: 10, ...shared, lastChosen: 9, busySinceMs: 900 });
    expect(loads.of(0)).toEqual({ sequences: 0, batched: 0, promptTokens: 0, lastChosen: 0, busySinceMs: 0, tokensAtMs: 0 });
  });

  it('begins in order, as much as a batch holds', () => {
    const loads = new WorkerLoads(2, 2, MOST);
    const all = [running(0, 1), running(1, 2), running(0, 3), running(0, 4)];
    for (const entry of all) loads.add(entry);
    loads.fillBatch(places[0], all);
    expect(all.map(({ batched }) => batched)).toEqual([true, false, true, false]);
    expect([loads.batchIsFull(0), loads.batchIsFull(1)]).toEqual([true, false]);
    loads.setBatched(all[2], false);
    loads.setBatched(all[2], false);
    expect(loads.of(0).batched).toBe(1);
    loads.remove(all[0]);
    loads.fillBatch(places[0], all.slice(1));
    expect(all.map(({ batched }) => batched)).toEqual([true, false, true, true]);
    expect(loads.of(0)).toMatchObject({ sequences: 2, batched: 2 });
  });

  it('never counts more as begun than there is, and what waits is bounded', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat({ max: 3 }), fc.nat({ max: 1 }), fc.nat()), { maxLength: 60 }), (steps) => {
        const loads = new WorkerLoads(2, 3, MOST);
        const all: Running[] = [];
        for (const [i, [what, worker, which]] of steps.entries()) {
          const entry = all[which % Math.max(1, all.length)];
          if (what < 2) {
            all.push(running(worker, i));
            loads.add(all.at(-1)!);
          } else if (entry !== undefined && what === 2) loads.setBatched(entry, !entry.batched && !loads.batchIsFull(entry.place.worker));
          else if (entry !== undefined) loads.remove(all.splice(all.indexOf(entry), 1)[0]);
          loads.fillBatch(places[worker], all);
          for (const place of places) {
            const there = all.filter((other) => other.place === place);
            const { sequences, batched, promptTokens } = loads.of(place.worker);
            expect(sequences).toBe(there.length);
            expect(batched).toBe(there.filter((other) => other.batched).length);
            expect(batched).toBeLessThanOrEqual(3);
            expect(promptTokens).toBe(10 * there.length);
          }
          expect(loads.of(worker).batched).toBe(Math.min(3, loads.of(worker).sequences));
        }
      }),
    );
  });

  it('has room beside the batch for as much as it is told', () => {
    const loads = new WorkerLoads(1, 1, MOST);
    const all = Array.from({ length: MOST + 1 }, (_, i) => running(0, i));
    for (const entry of all.slice(1)) {
      expect(loads.hasRoom(0)).toBe(true);
      loads.add(entry);
    }
    expect(loads.hasRoom(0)).toBe(false);
    loads.fillBatch(places[0], all.slice(1));
    expect(loads.hasRoom(0)).toBe(true);
    loads.add(all[0]);
    expect(loads.hasRoom(0)).toBe(false);
  });
});
