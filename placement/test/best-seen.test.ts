import { expect, it } from 'vitest';
import { FanOutSearch, thinTokens } from '../src/index.ts';
import { BestSeen } from '../src/solve/best-seen.ts';
import { fourNodesOptions, gptOssSlice } from './slice.ts';

it('gives the best of what was seen back, prices included, and goes on from there', async () => {
  const trace = thinTokens(await gptOssSlice(), 300);
  const search = new FanOutSearch(trace, new Int32Array(trace.sequences.length), fourNodesOptions());
  search.placeSingles();
  search.chooseHomes();
  const seen = new BestSeen(search);
  const first = search.merit();
  search.addReplicas();
  search.prices.peakPrice = 0.5;
  seen.look();
  const [best, homes] = [search.merit(), [...search.result().homeOf]];
  expect(best).toBeLessThan(first);
  // Worse from here on: every expert on one node, other homes, another price.
  search.resume({ masks: trace.moeLayers.map(() => new Int32Array(trace.experts).fill(1)), homeOf: new Int32Array(homes.length).fill(3) });
  search.prices.peakPrice = 7;
  seen.look();
  expect(search.merit()).toBeGreaterThan(best);
  seen.resume();
  expect(search.merit()).toBeCloseTo(best, 9);
  expect([...search.result().homeOf]).toEqual(homes);
  expect(search.prices.peakPrice).toBe(0.5);
});
