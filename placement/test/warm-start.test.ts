import { expect, it } from 'vitest';
import { nodeMasks, type Placement, place } from '../src/index.ts';
import { FanOutSearch } from '../src/solve/fan-out-search.ts';
import { fourNodesOptions, gptOssSlice, testTopology } from './slice.ts';

it('ends with nothing worse than it began with: the price of peaks is that of the plan in force, not one that is far off', async () => {
  const trace = await gptOssSlice();
  const merit = ({ plan, cluster }: Placement, peakMeanMax: number) => {
    const share = new Float64Array(cluster.nodes).fill(1 / cluster.nodes);
    const options = fourNodesOptions();
    const search = new FanOutSearch(trace, new Int32Array(trace.sequences.length), {
      ...options,
      slots: new Int32Array(cluster.nodes).fill(960),
      balance: { share, tolerance: 0.045 },
      prices: { ...options.prices, share, remoteRowPrice: 1 },
      peakMeanMax,
    });
    search.load(nodeMasks(plan, cluster));
    search.chooseHomes();
    return search.merit();
  };
  for (const [nodes, peakMeanMax] of [
    [2, 1.12],
    [4, 1.12],
  ]) {
    const options = { starts: 1, programColumns: 0, sampleTokens: 100_000, peakMeanMax };
    const topology = testTopology(nodes, 1, 960);
    const cold = await place(trace, topology, options);
    for (const warmRounds of [1, 3]) {
      const warm = await place(trace, topology, { ...options, warmStart: cold.plan, warmRounds });
      expect(merit(warm, peakMeanMax)).toBeLessThanOrEqual(merit(cold, peakMeanMax) * (1 + 1e-9));
    }
  }
});

it('refuses to anneal from a plan', async () => {
  const trace = await gptOssSlice();
  const { plan } = await place(trace, testTopology(1, 2, 480), { starts: 1, replicas: 0 });
  await expect(place(trace, testTopology(1, 2, 480), { warmStart: plan, annealing: 5 })).rejects.toThrow(
    'annealing is 5, must be 0 with a warm start',
  );
});
