import { describe, expect, it } from 'vitest';
import { place } from '../src/index.ts';
import { FanOutSearch } from '../src/solve/fan-out-search.ts';
import { fourNodesOptions, gptOssSlice, testTopology, toyTrace } from './slice.ts';

/** Some placement of the slice with uneven peaks: one that was found where peaks cost nothing. */
async function unevenSearch() {
  const trace = await gptOssSlice();
  const options = fourNodesOptions();
  const free = { ...options, peakMeanMax: Infinity, prices: { ...options.prices, peakPrice: 0.02 } };
  const search = new FanOutSearch(
    trace,
    Int32Array.from(trace.sequences, (_, s) => s % 4),
    free,
  );
  search.placeSingles();
  search.addReplicas();
  await search.converge(2, 1e-3);
  return { search, scale: trace.tokens * trace.moeLayers.length };
}

describe('relief', () => {
  it('leaves a plan alone whose mean peak is within the limit, whatever single layers have', async () => {
    const { search } = await unevenSearch();
    const before = search.result();
    search.relieve(search.peakMean() + 1e-9, 8);
    expect(search.result()).toEqual(before);
  });

  it('brings the mean peak to the limit, takes no more off than that asks for, and pays little', async () => {
    const { search, scale } = await unevenSearch();
    const [r, peak] = [search.remoteNodes() / scale, search.peakMean()];
    const limit = peak - 0.02;
    search.relieve(limit, 8);
    expect(search.peakMean()).toBeLessThanOrEqual(limit);
    expect(search.peakMean()).toBeGreaterThan(limit - 0.005);
    expect(search.remoteNodes() / scale).toBeLessThan(r + 0.01);
  });

  it('goes on while there are steps: nothing is left to relieve at the same price', async () => {
    const options = fourNodesOptions();
    for (let seed = 1; seed <= 40; seed++) {
      const trace = toyTrace({ layers: 4, experts: 12, topK: 4, sequences: 9, tokensEach: 6 }, seed);
      const search = new FanOutSearch(
        trace,
        Int32Array.from(trace.sequences, (_, s) => s % 4),
        {
          ...options,
          slots: new Int32Array(4).fill(14),
          peakMeanMax: Infinity,
          prices: { ...options.prices, peakPrice: 0.02, remoteRowPrice: 1 },
        },
      );
      search.placeSingles();
      search.addReplicas();
      await search.converge(2, 1e-3);
      const limit = 1 + (search.peakMean() - 1) / 2;
      search.relieve(limit, 8);
      const once = search.peakMean();
      if (once > limit) search.relieve(limit, 8);
      expect({ seed, peak: search.peakMean() }).toEqual({ seed, peak: once });
    }
  });

  it('does not change a warm start that has no rounds and is within the limit', async () => {
    const trace = await gptOssSlice();
    const topology = testTopology(4, 1, 300);
    const options = { starts: 1, programColumns: 0, sampleTokens: 100_000 };
    const found = await place(trace, topology, options);
    const warm = await place(trace, topology, {
      ...options,
      peakMeanMax: found.score.nodePeakMean + 0.01,
      warmStart: found.plan,
      warmRounds: 0,
    });
    expect(warm.plan.replicas).toEqual(found.plan.replicas);
  });
});
