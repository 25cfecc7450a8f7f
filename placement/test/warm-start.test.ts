import { expect, it } from 'vitest';
import { baselinePlan, chooseHomes, clusterOf, nodeMasks, type Placement, place, replicaCount, scoreFanOut } from '../src/index.ts';
import { FanOutSearch } from '../src/solve/fan-out-search.ts';
import { expectValid, fourNodesOptions, gptOssSlice, testTopology, toyTrace } from './slice.ts';

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

it('keeps what fits, though limits round it elsewhere: workers have room for what they hold', async () => {
  const shape = { layers: 2, experts: 8, topK: 2, sequences: 8, tokensEach: 10 };
  const [trace, topology] = [toyTrace(shape), testTopology(2, 2, 8)];
  const everywhere = await baselinePlan('contiguous', trace, topology);
  everywhere.replicas = trace.moeLayers.map(() => Array.from({ length: 8 }, (_, e) => [e < 4 ? 0 : 1, e < 4 ? 2 : 3]));
  const warm = await place(trace, topology, { replicas: 1, warmStart: everywhere, programColumns: 0 });
  expectValid(warm.plan, clusterOf(topology).slotsOf);
  expect(warm.score.remoteNodes).toBe(0);
  // An odd number of slots, of which another node has one more; and workers that share a node unevenly.
  const odd = toyTrace({ layers: 5, experts: 9, topK: 2, sequences: 12, tokensEach: 20 }, 3);
  const options = { starts: 1, replicas: 0.1, programColumns: 0, peakMeanMax: 1.3 };
  for (const [nodes, workers, names] of [
    [4, 1, [1, 2, 3, 0]],
    [4, 1, [3, 2, 1, 0]],
    [2, 2, [3, 2, 1, 0]],
    [2, 3, [1, 2, 0, 5, 3, 4]],
  ] as const) {
    const all = testTopology(nodes, workers, 200);
    const cluster = clusterOf(all);
    const { plan } = await place(odd, all, options);
    const renamed = { ...plan, replicas: plan.replicas.map((layer) => layer.map((own) => own.map((w) => names[w]).sort((a, b) => a - b))) };
    const again = await place(odd, all, { ...options, warmStart: renamed, warmRounds: 0 });
    const homes = chooseHomes(odd, nodeMasks(renamed, cluster), cluster, { kind: 'whole-sequence' }, 0.045);
    const before = scoreFanOut(odd, renamed.replicas, cluster, homes);
    expect(again.score.remoteNodes).toBeLessThanOrEqual(before.remoteNodes + 1e-9);
    expect(again.score.peakMean).toBeLessThanOrEqual(before.peakMean + 1e-9);
    expect(replicaCount(again.plan)).toBeLessThanOrEqual(49);
    expectValid(again.plan, cluster.slotsOf);
  }
});

it('gives up what is more than was asked for', async () => {
  const trace = toyTrace({ layers: 5, experts: 9, topK: 2, sequences: 12, tokensEach: 20 }, 3);
  for (const [nodes, workers] of [
    [1, 4],
    [2, 2],
    [4, 1],
  ]) {
    const topology = testTopology(nodes, workers, 20);
    const { plan } = await place(trace, topology, { starts: 1, replicas: 0.6, programColumns: 0 });
    for (const warmRounds of [0, 2]) {
      const warm = await place(trace, topology, {
        replicas: 0.2,
        warmStart: plan,
        warmRounds,
        programColumns: warmRounds === 0 && nodes === 2 ? 400 : 0,
      });
      expect(replicaCount(warm.plan)).toBeLessThanOrEqual(54);
      expectValid(warm.plan, clusterOf(topology).slotsOf);
    }
  }
});

it('ends where rounds gain nothing', async () => {
  const trace = toyTrace({ layers: 2, experts: 6, topK: 2, sequences: 6, tokensEach: 5 });
  const topology = testTopology(2, 1, 8);
  const { plan } = await place(trace, topology, { starts: 1, programColumns: 0 });
  let rounds = 0;
  await place(trace, topology, {
    warmStart: plan,
    warmRounds: 100,
    programColumns: 0,
    onProgress: ({ stage }) => {
      if (stage === 'refine') rounds++;
    },
  });
  expect(rounds).toBeLessThan(30);
  await expect(place(trace, topology, { warmStart: plan, warmRounds: Infinity })).rejects.toThrow(
    'warmRounds is Infinity, must be in 0..100',
  );
});

it('refuses to anneal from a plan', async () => {
  const trace = await gptOssSlice();
  const { plan } = await place(trace, testTopology(1, 2, 480), { starts: 1, replicas: 0 });
  await expect(place(trace, testTopology(1, 2, 480), { warmStart: plan, annealing: 5 })).rejects.toThrow(
    'annealing is 5, must be 0 with a warm start',
  );
});
