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
});

describe('what workers have to do', () => {
  it('is what they were given and have not ended', () => {
    const loads = new WorkerLoads(2, 8, MOST);
    const [first, second] = [running(1, 5), running(1, 6, 20)];
    loads.add(first);
    loads.add(second);
    loads.gaveTokens(1, 777);
    const shared = { lastChosen: 6, busySinceMs: 500, tokensAtMs: 777 };
    expect(loads.of(1)).toEqual({ sequences: 2, batched: 2, unbegun: 2, promptTokens: 30, ...shared });
    loads.promptDone(first);
    loads.promptDone(first);
    expect(loads.of(1)).toEqual({ sequences: 2, batched: 2, unbegun: 1, promptTokens: 20, ...shared });
    loads.remove(second);
    expect(loads.of(1)).toEqual({ sequences: 1, batched: 1, unbegun: 0, promptTokens: 0, ...shared });
    loads.remove(first);
    loads.add(running(1, 9));
    expect(loads.of(1)).toEqual({ sequences: 1, batched: 1, unbegun: 1, promptTokens: 10, ...shared, lastChosen: 9, busySinceMs: 900 });
    expect(loads.of(0)).toEqual({ sequences: 0, batched: 0, unbegun: 0, promptTokens: 0, lastChosen: 0, busySinceMs: 0, tokensAtMs: 0 });
  });

  it('is in a batch as far as that holds it and the worker does not say otherwise', () => {
    const loads = new WorkerLoads(2, 3, MOST);
    const all = [running(0, 1), running(1, 2), running(0, 3), running(0, 4), running(0, 5)];
    for (const entry of all) loads.add(entry);
    const batched = () => loads.of(0).batched;
    expect([batched(), loads.of(1).batched]).toEqual([3, 1]);
    loads.saysWaiting(0, 3);
    expect(batched()).toBe(1);
    // What has begun is in the batch, whichever came first.
    loads.promptDone(all[4]);
    expect(batched()).toBe(1);
    loads.promptDone(all[3]);
    expect(batched()).toBe(2);
    loads.saysWaiting(0, 4);
    expect(batched()).toBe(2);
    loads.saysWaiting(0, 0);
    expect(batched()).toBe(3);
    loads.saysWaiting(0, 2);
    loads.remove(all[3]);
    expect(loads.of(0)).toMatchObject({ sequences: 3, batched: 2 });
  });

  it('lets what waits at a worker whose cache is full become less, however many end and come', () => {
    const loads = new WorkerLoads(1, 64, 8);
    const all = Array.from({ length: 72 }, (_, i) => running(0, i));
    for (const entry of all) loads.add(entry);
    for (const entry of all.slice(0, 10)) loads.promptDone(entry);
    loads.saysWaiting(0, 62);
    for (let ended = 0, begun = 10; ended < 54; ended++) {
      expect(loads.hasRoom(0)).toBe(false);
      loads.remove(all[ended]);
      loads.promptDone(all[begun++]);
    }
    expect([loads.of(0), loads.hasRoom(0)]).toMatchObject([{ sequences: 18, batched: 10 }, false]);
    loads.remove(all[54]);
    expect(loads.hasRoom(0)).toBe(true);
    loads.add(running(0, 100));
    expect([loads.of(0), loads.hasRoom(0)]).toMatchObject([{ sequences: 18, batched: 10 }, false]);
    loads.saysWaiting(0, 0);
    expect([loads.of(0), loads.hasRoom(0)]).toMatchObject([{ batched: 18 }, true]);
  });

  it('has begun at once where there is no prompt, which workers refuse', () => {
    const loads = new WorkerLoads(1, 2, MOST);
    const entry = running(0, 1, 0);
    loads.add(entry);
    expect(loads.of(0)).toMatchObject({ sequences: 1, batched: 1, unbegun: 0 });
    loads.remove(entry);
    expect(loads.of(0)).toMatchObject({ sequences: 0, batched: 0, unbegun: 0 });
  });

  it('never counts more as begun than there is, and what waits is bounded', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat({ max: 4 }), fc.nat({ max: 1 }), fc.nat()), { maxLength: 60 }), (steps) => {
        const loads = new WorkerLoads(2, 3, MOST);
        const all: Running[] = [];
        for (const [i, [what, worker, which]] of steps.entries()) {
          const entry = all[which % Math.max(1, all.length)];
          if (what < 2) {
            all.push(running(worker, i));
            loads.add(all.at(-1)!);
          } else if (what === 2) loads.saysWaiting(worker, which % 12);
          else if (entry !== undefined && what === 3) loads.promptDone(entry);
          else if (entry !== undefined) loads.remove(all.splice(all.indexOf(entry), 1)[0]);
          for (const place of places) {
            const there = all.filter((other) => other.place === place);
            const unbegun = there.filter(({ promptTokens }) => promptTokens > 0).length;
            expect(loads.of(place.worker)).toMatchObject({ sequences: there.length, unbegun, promptTokens: 10 * unbegun });
            const { batched } = loads.of(place.worker);
            expect(batched).toBeLessThanOrEqual(Math.min(3, there.length));
            expect(batched).toBeGreaterThanOrEqual(Math.min(3, there.length - unbegun));
          }
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
    expect(loads.hasRoom(0)).toBe(true);
    loads.add(all[0]);
    expect(loads.hasRoom(0)).toBe(false);
    loads.remove(all[1]);
    expect(loads.hasRoom(0)).toBe(true);
    loads.saysWaiting(0, MOST);
    expect(loads.hasRoom(0)).toBe(false);
  });
});
