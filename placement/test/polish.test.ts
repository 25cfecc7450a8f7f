import { describe, expect, it } from 'vitest';
import { FanOutSearch, type FanOutSearchOptions, place } from '../src/index.ts';
import { polish } from '../src/solve/polish.ts';
import { expectValid, testTopology, toyTrace } from './slice.ts';

const shape = { layers: 2, experts: 6, topK: 2, sequences: 6, tokensEach: 5 };

function searchOf(seed: number): FanOutSearch {
  const share = new Float64Array(3).fill(1 / 3);
  const options: FanOutSearchOptions = {
    slots: new Int32Array(3).fill(5),
    balance: { share, tolerance: 0.5 },
    prices: { peakPrice: 0, share, linkPrice: null, visitPrice: 1, remoteRowPrice: 1 },
    peakMeanMax: Infinity,
    sequenceWeight: null,
    stop: () => false,
    pause: () => Promise.resolve(),
    candidatesMax: 500,
    onImproved: () => {},
  };
  const search = new FanOutSearch(
    toyTrace(shape, seed),
    Int32Array.from({ length: 6 }, (_, s) => s % 3),
    options,
  );
  search.placeSingles();
  return search;
}

const effort = { columnsMax: 2000, branchesMax: 100_000, timeLeftMs: () => Infinity, signal: null };

describe('small instances', () => {
  it('end at the optimum that the integer program proves, for their homes', async () => {
    let better = 0;
    for (let seed = 1; seed <= 4; seed++) {
      const search = searchOf(seed);
      search.addReplicas();
      await search.improveLayers(20, 0);
      const before = search.objective();
      const { kept, bound } = await polish(search, effort);
      better += kept;
      expect(search.objective()).toBeLessThanOrEqual(before);
      expect(search.objective()).toBeCloseTo(bound!, 4);
      expect(search.free.every((free) => free >= 0)).toBe(true);
    }
    expect(better).toBeGreaterThan(0);
  }, 120_000);

  it('are never worse for it in place(), are the same for the same seed, and end when asked to', async () => {
    let better = 0;
    for (let seed = 1; seed <= 3; seed++) {
      const trace = toyTrace(shape, seed);
      const topology = testTopology(3, 1, 6);
      const [with_, again, without] = [
        await place(trace, topology, { starts: 1 }),
        await place(trace, topology, { starts: 1 }),
        await place(trace, topology, { starts: 1, programColumns: 0 }),
      ];
      expect(with_.plan).toEqual(again.plan);
      expectValid(with_.plan, with_.cluster.slotsOf);
      // What a plan is judged by: visits, rows that leave their home, and a price for peaks above the limit.
      const cost = ({ score }: typeof with_) =>
        (score.remoteNodes + shape.topK * (1 - score.homeShare)) * (1 + 2 * Math.max(0, score.nodePeakMean - 1.12));
      expect(cost(with_)).toBeLessThanOrEqual(cost(without) * 1.000001 + 1e-9);
      if (cost(with_) < cost(without) - 1e-9) better++;
    }
    expect(better).toBeGreaterThan(0);
    const abort = new AbortController();
    const polishing = polish(searchOf(1), { ...effort, signal: abort.signal });
    abort.abort();
    expect(await polishing).toEqual({ kept: 0, bound: null });
  }, 120_000);
});
