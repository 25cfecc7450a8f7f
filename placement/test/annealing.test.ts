import { describe, expect, it } from 'vitest';
import { FanOutSearch, place, seededRandom, thinTokens } from '../src/index.ts';
import { annealed } from '../src/solve/annealing.ts';
import { LayerSearch } from '../src/solve/layer-search.ts';
import { entriesOf, patternsOf } from '../src/trace/pattern-histogram.ts';
import { domainsApart, fourNodesOptions, gptOssSlice, testTopology, worstDomain } from './slice.ts';

describe('trials where nodes are few', () => {
  it('answer what serving every token again answers, for one expert and for two', async () => {
    const trace = await gptOssSlice();
    const random = seededRandom(5);
    let looked = 0;
    for (const nodes of [2, 3, 4]) {
      const histogram = patternsOf(trace, 3);
      const homeOf = Uint8Array.from(trace.sequenceOf, (s) => s % nodes);
      const prices = (linkPrice: Float64Array | null, peakPrice: number) => ({
        peakPrice,
        share: new Float64Array(nodes).fill(1 / nodes),
        linkPrice,
        visitPrice: 1.5,
        remoteRowPrice: 2,
      });
      // Links that cost one visit each are links that are alike, but for the way they are priced.
      const layerOf = (linkPrice: Float64Array | null, peakPrice: number) =>
        new LayerSearch(histogram, trace.topK, trace.experts, nodes, prices(linkPrice, peakPrice));
      const few = layerOf(null, 0.7);
      const served = layerOf(new Float64Array(nodes * nodes).fill(1), 0.7);
      const unpeaked = layerOf(null, 0);
      const anyMask = () => 1 + random.below((1 << nodes) - 1);
      const masks = Int32Array.from({ length: trace.experts }, anyMask);
      for (const layer of [few, served, unpeaked]) {
        layer.setEntries(entriesOf(histogram, homeOf, null, nodes, new Float64Array(histogram.patterns * nodes)));
        layer.reset(masks);
      }
      for (let i = 0; i < 200; i++) {
        const e = random.below(trace.experts);
        const f = i % 2 === 0 ? -1 : (e + 1 + random.below(trace.experts - 1)) % trace.experts;
        const [maskE, maskF] = [anyMask(), f < 0 ? 0 : anyMask()];
        const gain = served.gainOf(e, maskE, f, maskF);
        expect(few.gainOf(e, maskE, f, maskF)).toBeCloseTo(gain, 6);
        if (f < 0) expect(unpeaked.gainCeiling(e, maskE)).toBeGreaterThanOrEqual(unpeaked.gainOf(e, maskE, -1, 0) - 1e-6);
        if (i % 10 !== 0) continue;
        for (const layer of [few, served, unpeaked]) layer.apply(e, maskE, f, maskF);
        expect(few.objective()).toBeCloseTo(served.objective(), 6);
        looked++;
      }
    }
    expect(looked).toBe(60);
  });
});

describe('annealing', () => {
  it('finds what descents do not, within memory, the same for the same seed', async () => {
    const train = await gptOssSlice();
    const topology = testTopology(4, 1, 24 * 32);
    const options = { replicas: 0.25, starts: 1, seed: 3, remoteRowPrice: 2 };
    const value = ({ score }: { score: { remoteNodes: number; homeShare: number } }) => score.remoteNodes + 2 * 4 * (1 - score.homeShare);
    const descended = await place(train, topology, options);
    const annealed = await place(train, topology, { ...options, annealing: 30 });
    const again = await place(train, topology, { ...options, annealing: 30 });
    expect(again.plan).toEqual(annealed.plan);
    // The signal comes in the middle of the annealing: what descents found is given back, as it was.
    const abort = new AbortController();
    const onProgress = ({ stage }: { stage: string }) => stage === 'anneal' && abort.abort();
    const stopped = await place(train, topology, { ...options, annealing: 30, signal: abort.signal, onProgress });
    expect(stopped.stopped).toBe(true);
    expect(value(stopped)).toBeLessThan(1.05 * value(descended));
    const copies = (of: typeof annealed) => of.plan.replicas.flat().reduce((sum, holders) => sum + holders.length, 0);
    expect(Math.max(copies(annealed), copies(stopped))).toBeLessThanOrEqual(24 * 32 * 1.25);
    expect(value(annealed)).toBeLessThan(value(descended));
  });

  it('leaves nothing worse than it began from, however few its proposals', async () => {
    const trace = thinTokens(await gptOssSlice(), 400);
    const search = new FanOutSearch(trace, new Int32Array(trace.sequences.length), fourNodesOptions());
    search.placeSingles();
    search.chooseHomes();
    search.addReplicas();
    for (let round = 0; round < 6; round++) await search.converge(4, 1e-4);
    const before = search.result();
    const prices = { ...search.prices };
    for (const seed of [1, 2, 3, 4]) {
      search.resume(before);
      Object.assign(search.prices, prices);
      const merit = search.merit();
      await annealed(search, { proposals: 1000, remoteNodesMax: Infinity, random: seededRandom(seed), onProgress: () => {} });
      expect(search.merit()).toBeLessThanOrEqual(merit);
      expect(Math.min(...search.free)).toBeGreaterThanOrEqual(0);
    }
  });

  it('goes with robustness over domains, a sample of the tokens and more nodes than have trials of their own', async () => {
    const trace = thinTokens(await gptOssSlice(), 300);
    const options = { replicas: 0.25, starts: 1, seed: 3, annealing: 2, sampleTokens: 150, robust: { kind: 'worst' as const } };
    // Six nodes; two workers each; and nodes that are searched in groups.
    for (const [nodes, workersPerNode] of [
      [6, 1],
      [5, 2],
      [40, 1],
    ]) {
      const { plan, cluster, score, stopped } = await place(trace, testTopology(nodes, workersPerNode, 24 * 32), options);
      expect(stopped).toBe(false);
      const held = new Int32Array(cluster.workers.length);
      for (const holders of plan.replicas.flat()) {
        expect(holders.length).toBeGreaterThan(0);
        for (const w of holders) held[w]++;
      }
      held.forEach((own, w) => {
        expect(own).toBeLessThanOrEqual(cluster.slotsOf[w]);
      });
      expect(score.remoteNodes).toBeLessThan(4);
    }
  });

  it('is followed by rounds that lower the worst domain, where only visits count and where home share does too', async () => {
    const trace = domainsApart();
    for (const aim of [{}, { remoteNodesMax: 1.2 }]) {
      const options = { replicas: 0.25, starts: 1, seed: 3, annealing: 20, ...aim };
      const mean = await place(trace, testTopology(4, 1, 64), options);
      const worst = await place(trace, testTopology(4, 1, 64), { ...options, robust: { kind: 'worst' } });
      expect(worstDomain(worst)).toBeLessThan(0.95 * worstDomain(mean));
    }
  });

  it('keeps what it spent on home share when the worst domain is asked for too', async () => {
    const trace = await gptOssSlice();
    const options = { replicas: 0.25, starts: 1, seed: 3, annealing: 20, remoteNodesMax: 1.2 };
    const mean = await place(trace, testTopology(4, 1, 24 * 32), options);
    const worst = await place(trace, testTopology(4, 1, 24 * 32), { ...options, robust: { kind: 'worst' } });
    // Rounds over the domains go on with the price of a visit that annealing found. With the price before it they would spend 0.12 nodes less than the mean does,
    // and serve 2% less at home.
    expect(worst.score.remoteNodes).toBeGreaterThan(mean.score.remoteNodes - 0.04);
    expect(worst.score.remoteNodes).toBeLessThan(mean.score.remoteNodes + 0.1);
    expect(worst.score.homeShare).toBeGreaterThan(mean.score.homeShare - 0.008);
  });
});
