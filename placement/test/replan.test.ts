import type { Plan } from '@switchyard/proto';
import { describe, expect, it } from 'vitest';
import { popcount } from '../src/cluster/node-set.ts';
import {
  baselinePlan,
  clusterOf,
  diffPlans,
  inWorkerOrder,
  matchLayers,
  nodeMasks,
  place,
  relabelToMatch,
  scoreFanOut,
  seededRandom,
  selectSequences,
  shuffle,
  stageMove,
  thinTokens,
} from '../src/index.ts';
import { expectValid, gptOssSlice, testTopology, toyTrace } from './slice.ts';

const quick = { starts: 1, sampleTokens: 1500 };

describe('re-planning', () => {
  it('undoes a renaming of equal workers and nodes completely', async () => {
    const trace = await gptOssSlice();
    const topology = testTopology(3, 2, 200);
    const { plan, cluster } = await place(trace, topology, quick);
    const name = [3, 2, 4, 5, 1, 0]; // node 0 -> 1 with its workers exchanged, 1 -> 2, 2 -> 0 exchanged
    const renamed = { ...plan, replicas: plan.replicas.map((l) => l.map((own) => own.map((w) => name[w]).sort((a, b) => a - b))) };
    expect(diffPlans(plan, relabelToMatch(renamed, plan, cluster).plan, 10).bytes).toBe(0);
    expect(diffPlans(plan, renamed, 10).bytes).toBeGreaterThan(0);
  });

  it('every stage is valid and no worse, and a budget is kept', async () => {
    const trace = await gptOssSlice();
    const topology = testTopology(3, 1, 300);
    const target = await place(trace, topology, { ...quick, replicas: 0.1 });
    const { cluster, homes } = target;
    const current = await baselinePlan('round-robin', trace, topology);
    const staged = await stageMove(current, target.plan, cluster, trace, homes, { expertBytes: 1000 });
    const state = current.replicas.map((l) => l.map((own) => [...own]));
    let last = staged.remoteNodesBefore;
    for (const stage of staged.stages) {
      for (const { layer, expert, worker } of stage.drops) state[layer][expert] = state[layer][expert].filter((w) => w !== worker);
      for (const { layer, expert, worker } of stage.adds) state[layer][expert] = [...state[layer][expert], worker].sort((a, b) => a - b);
      expectValid({ replicas: state }, cluster.slotsOf);
      expect(stage.remoteNodes).toBeLessThanOrEqual(last + 1e-12);
      last = stage.remoteNodes;
    }
    expect(scoreFanOut(trace, state, cluster, homes).remoteNodes).toBeCloseTo(last, 9);
    expect(state).toEqual(staged.reached.replicas);
    expect(last).toBeLessThan(0.8 * staged.remoteNodesBefore);
    const part = await stageMove(current, target.plan, cluster, trace, homes, { expertBytes: 1000, bytesMax: 60_000 });
    expect(part.bytes).toBeLessThanOrEqual(60_000);
    expect(part.remoteNodesAfter).toBeLessThan(part.remoteNodesBefore);
  });
});

describe('re-planning with several workers in a node', () => {
  it('keeps experts on their workers where they stay on their node, apart from what evens out a worker', async () => {
    const trace = await gptOssSlice();
    const topology = testTopology(2, 4, 150);
    const { plan: now, cluster } = await place(
      selectSequences(trace, (s) => s % 2 === 0),
      topology,
      quick,
    );
    const { plan, score } = await place(trace, topology, { ...quick, warmStart: now, warmRounds: 1 });
    expectValid(plan, cluster.slotsOf);
    const [before, after] = [nodeMasks(now, cluster), nodeMasks(plan, cluster)];
    const onNodes = after.reduce((sum, layer, l) => sum + layer.reduce((n, mask, e) => n + popcount(mask & ~before[l][e]), 0), 0);
    expect(diffPlans(now, plan, 1).bytes).toBeLessThan(onNodes + 0.17 * now.replicas.flat(2).length);
    expect(score.peakMean).toBeLessThan(score.nodePeakMean + 0.06);
  });

  it('finds that equal workers traded what they hold in single layers', async () => {
    const trace = toyTrace({ layers: 6, experts: 16, topK: 2, sequences: 4, tokensEach: 5 });
    const topology = testTopology(2, 4, 16);
    const plan = await baselinePlan('round-robin', trace, topology);
    const random = seededRandom(3);
    const traded = {
      ...plan,
      replicas: plan.replicas.map((layer) => {
        const to = [...shuffle([0, 1, 2, 3], random), ...shuffle([4, 5, 6, 7], random)];
        return layer.map((own) => own.map((w) => to[w]).sort((a, b) => a - b));
      }),
    };
    expect(diffPlans(plan, relabelToMatch(traded, plan, clusterOf(topology)).plan, 1).bytes).toBeGreaterThan(0);
    expect(matchLayers(traded, plan, clusterOf(topology)).replicas).toEqual(plan.replicas);
    // A faster worker keeps its own.
    topology.nodes[0].workers[1].relativeSpeed = 2;
    const apart = matchLayers(traded, plan, clusterOf(topology));
    apart.replicas.forEach((layer, l) => {
      layer.forEach((own, e) => {
        expect(own.includes(1)).toBe(traded.replicas[l][e].includes(1));
      });
    });
  });
});

describe('the stages of a move', () => {
  it('copy nothing that gains nothing: workers of one node that trade places save no visit', async () => {
    const trace = thinTokens(await gptOssSlice(), 400);
    const topology = testTopology(2, 2, 300);
    const { plan, cluster, homes } = await place(trace, topology, { ...quick, replicas: 0 });
    const other = [1, 0, 3, 2];
    const traded = { ...plan, replicas: plan.replicas.map((layer) => layer.map((own) => own.map((w) => other[w]).sort((a, b) => a - b))) };
    const { bytes, reached } = await stageMove(plan, traded, cluster, trace, homes, { expertBytes: 1 });
    expect(bytes).toBe(0);
    expect(reached.replicas).toEqual(plan.replicas);
  });

  it('are judged by rows and peaks too where these have a price', async () => {
    const trace = thinTokens(await gptOssSlice(), 400);
    const topology = testTopology(2, 2, 480);
    const { plan: target, homes } = await place(trace, topology, { ...quick, replicas: 0 });
    const cluster = clusterOf(topology);
    // Everything of a node on its first worker: no visit more, and the other one idle.
    const current = { ...target, replicas: target.replicas.map((layer) => layer.map((own) => own.map((w) => w & 2))) };
    const prices = { visit: 1, remoteRow: 1, peak: 1 };
    const { reached } = await stageMove(current, target, cluster, trace, homes, { expertBytes: 1, prices });
    const peak = (replicas: number[][][]) => scoreFanOut(trace, replicas, cluster, homes).peakMean;
    expect(peak(current.replicas)).toBeGreaterThan(1.9);
    expect(peak(reached.replicas)).toBeLessThan(peak(target.replicas) + 0.05);
    const half = await stageMove(current, target, cluster, trace, homes, { expertBytes: 1, prices, bytesMax: 200 });
    expect(peak(half.reached.replicas)).toBeLessThan(1.7);
  });

  it('end when time is up', async () => {
    const trace = thinTokens(await gptOssSlice(), 400);
    const topology = testTopology(3, 1, 300);
    const current = await baselinePlan('round-robin', trace, topology);
    const { plan, cluster, homes } = await place(trace, topology, { ...quick, replicas: 0.1 });
    const { stages, reached } = await stageMove(current, plan, cluster, trace, homes, { expertBytes: 1, stop: () => true });
    expect(stages.flatMap((stage) => stage.adds)).toEqual([]);
    expectValid(reached, cluster.slotsOf);
    // Still looking for the first stage: the best that was seen.
    let looks = 0;
    const first = await stageMove(current, plan, cluster, trace, homes, { expertBytes: 1, stop: () => ++looks > 300 });
    expect(first.bytes).toBeGreaterThan(50);
    expect(first.remoteNodesAfter).toBeLessThan(first.remoteNodesBefore);
    expectValid(first.reached, cluster.slotsOf);
    let asked = 0;
    const some = await stageMove(current, plan, cluster, trace, homes, { expertBytes: 1, stop: () => ++asked > 1500 });
    expect(some.bytes).toBeGreaterThan(0);
    expect(some.bytes).toBeLessThan(diffPlans(current, plan, 1).bytes);
  });
});

describe('stages that lacked room', () => {
  it('are taken once others have made it: nothing is left that gains and fits the budget', async () => {
    for (let seed = 1; seed <= 60; seed++) {
      const trace = toyTrace({ layers: 4, experts: 12, topK: 3, sequences: 9, tokensEach: 6 }, seed);
      const topology = testTopology(3, 1, 18);
      const cluster = clusterOf(topology);
      const random = seededRandom(seed);
      const room = [18, 18, 18];
      const anywhere = () => {
        const free = [0, 1, 2].filter((w) => room[w] > 0);
        const worker = free[random.below(free.length)];
        room[worker]--;
        return [worker];
      };
      const current = await baselinePlan('contiguous', trace, topology);
      current.replicas = trace.moeLayers.map(() => Array.from({ length: 12 }, anywhere));
      const { plan, homes } = await place(trace, topology, { starts: 1, replicas: 0.1, programColumns: 0, seed });
      const once = await stageMove(current, plan, cluster, trace, homes, { expertBytes: 1, bytesMax: 20 });
      const left = { expertBytes: 1, bytesMax: 20 - once.bytes };
      expect({ seed, bytes: (await stageMove(once.reached, plan, cluster, trace, homes, left)).bytes }).toEqual({ seed, bytes: 0 });
    }
  });
});

describe('re-planning to fewer replicas', () => {
  it('reaches what is no worse than the target, where bytes suffice', async () => {
    const shape = { layers: 2, experts: 6, topK: 2, sequences: 6, tokensEach: 5 };
    const cluster = clusterOf(testTopology(3, 1, 8));
    const random = seededRandom(1);
    for (let pair = 0; pair < 300; pair++) {
      const trace = toyTrace(shape, 1 + (pair % 10));
      const homes = Int32Array.from({ length: shape.sequences }, () => random.below(3));
      const planOfCopies = (copies: number): Plan => {
        const free = [8, 8, 8];
        const replicas = trace.moeLayers.map(() => Array.from({ length: shape.experts }, (): number[] => []));
        for (let i = 0; i < copies; ) {
          const own = replicas.flat()[i < 12 ? i : random.below(12)];
          const worker = random.below(3);
          if (own.includes(worker) || free[worker] === 0) continue;
          own.push(worker);
          own.sort((a, b) => a - b);
          free[worker]--;
          i++;
        }
        const model = { type: 'toy', moeLayers: trace.moeLayers, experts: shape.experts };
        return { format: 'switchyard-plan', version: 1, model, workers: cluster.workers, replicas, provenance: null };
      };
      const current = planOfCopies(12 + random.below(8));
      const target = planOfCopies(12 + random.below(4));
      const { remoteNodesAfter, reached, stages } = await stageMove(current, target, cluster, trace, homes, { expertBytes: 1 });
      const aim = scoreFanOut(trace, target.replicas, cluster, homes).remoteNodes;
      expect(remoteNodesAfter).toBeLessThanOrEqual(aim + 1e-12);
      const state = current.replicas.map((layer) => layer.map((own) => [...own]));
      for (const { drops, adds } of stages) {
        for (const { layer, expert, worker } of drops) state[layer][expert] = state[layer][expert].filter((w) => w !== worker);
        for (const { layer, expert, worker } of adds) state[layer][expert] = [...state[layer][expert], worker].sort((a, b) => a - b);
        expectValid({ replicas: state }, cluster.slotsOf);
      }
      expect(state).toEqual(reached.replicas);
    }
  });
});

describe('re-planning with less memory', () => {
  const topology = testTopology(3, 1, 400);
  const cluster = clusterOf(topology);

  it('drops what the target does not have, which costs no bytes', async () => {
    const trace = await gptOssSlice();
    const { plan: current, homes } = await place(trace, topology, { ...quick, replicas: 0.3 });
    const target = { ...current, replicas: current.replicas.map((layer) => layer.map((own) => own.slice(0, 1))) };
    const { reached, stages, bytes } = await stageMove(current, target, cluster, trace, homes, { expertBytes: 1000, bytesMax: 0 });
    expect(reached.replicas).toEqual(target.replicas);
    expect({ bytes, adds: stages.flatMap((stage) => stage.adds) }).toEqual({ bytes: 0, adds: [] });
    // Where nothing may be copied, the number of replicas is the target's all the same, and every expert is still somewhere.
    const elsewhere = await place(trace, topology, { ...quick, replicas: 0.1, seed: 7 });
    const part = await stageMove(current, elsewhere.plan, cluster, trace, homes, { expertBytes: 1000, bytesMax: 0 });
    expectValid(part.reached, cluster.slotsOf);
    expect(part.reached.replicas.flat(2)).toHaveLength(elsewhere.plan.replicas.flat(2).length);
  });

  it('takes experts off a worker that is over its memory, or says that the bytes do not suffice', async () => {
    const trace = thinTokens(await gptOssSlice(), 400);
    const current = await baselinePlan('contiguous', trace, topology);
    const smaller = testTopology(3, 1, 400);
    smaller.nodes[0].workers[0].expertMemoryBytes = 200_000;
    const { plan: target, homes } = await place(trace, smaller, { ...quick, replicas: 0 });
    const less = clusterOf(smaller);
    const { reached } = await stageMove(current, target, less, trace, homes, { expertBytes: 1000, bytesMax: 200_000 });
    expectValid(reached, less.slotsOf);
    // Time does not stand in the way: what has to move moves.
    const late = await stageMove(current, target, less, trace, homes, { expertBytes: 1000, stop: () => true });
    expectValid(late.reached, less.slotsOf);
    await expect(stageMove(current, target, less, trace, homes, { expertBytes: 1000, bytesMax: 1000 })).rejects.toThrow(
      /worker 0 \(n0w0\) holds \d+ experts and its memory 200: no part of the way that moves at most 1000 bytes fits/,
    );
  });

  it('ends when it is told to, with a plan that is valid', async () => {
    const trace = thinTokens(await gptOssSlice(), 400);
    const current = await baselinePlan('round-robin', trace, topology);
    const { plan: target, homes } = await place(trace, topology, { ...quick, replicas: 0.1 });
    const stop = new AbortController();
    const whole = await stageMove(current, target, cluster, trace, homes, { expertBytes: 1 });
    const moving = stageMove(current, target, cluster, trace, homes, { expertBytes: 1, signal: stop.signal });
    // It has turned the event loop once.
    setImmediate(() => stop.abort());
    const { reached, bytes, remoteNodesBefore, remoteNodesAfter } = await moving;
    expectValid(reached, cluster.slotsOf);
    expect(bytes).toBeLessThan(whole.bytes);
    expect(remoteNodesAfter).toBeLessThanOrEqual(remoteNodesBefore);
  });

  it('lets nodes trade names only where their links are alike', async () => {
    const trace = toyTrace({ layers: 2, experts: 8, topK: 2, sequences: 4, tokensEach: 5 });
    const links = [0, 1, 2, 3].flatMap((from) =>
      [0, 1, 2, 3]
        .filter((to) => to !== from)
        .map((to) => ({ from, to, latency: 1e-5, bandwidth: from >> 1 === to >> 1 ? 1.25e9 : 1.25e8 })),
    );
    const racks = { ...testTopology(4, 1, 8), links };
    const plan = await baselinePlan('round-robin', trace, racks);
    const named = (names: number[]) => ({ ...plan, replicas: plan.replicas.map((layer) => layer.map(([w]) => [names[w]])) });
    const back = (names: number[], of = racks) => relabelToMatch(named(names), plan, clusterOf(of)).plan;
    expect(back([1, 0, 3, 2]).replicas).toEqual(plan.replicas);
    // Across the racks: what was near would be far.
    expect(back([2, 1, 0, 3]).replicas).toEqual(named([2, 1, 0, 3]).replicas);
    expect(back([2, 1, 0, 3], { ...racks, links: [] }).replicas).toEqual(plan.replicas);
  });

  it('refuses plans for other layers or workers, by the first difference', async () => {
    const trace = toyTrace({ layers: 2, experts: 8, topK: 2, sequences: 4, tokensEach: 5 });
    const plan = await baselinePlan('round-robin', trace, topology);
    const workers = (change: (w: { name: string; node: number }, i: number) => { name: string; node: number }) => ({
      ...plan,
      workers: plan.workers.map(change),
    });
    const renamed = workers((w, i) => ({ ...w, name: i === 1 ? 'other' : w.name }));
    const moved = workers((w, i) => ({ ...w, node: [1, 0, 2][i] }));
    const shifted = { ...plan, model: { ...plan.model, moeLayers: [0, 2] } };
    for (const [other, message] of [
      [renamed, 'workers[1].name is "n1w0", must be "other"'],
      [moved, 'workers[0].node is 0, must be 1'],
      [shifted, 'model.moeLayers[1] is 1, must be 2'],
    ] as const) {
      expect(() => diffPlans(plan, other, 1)).toThrow(message);
      expect(() => relabelToMatch(plan, other, cluster)).toThrow(message);
    }
    await expect(place(trace, topology, { ...quick, warmStart: renamed })).rejects.toThrow('workers[1].name is "other", must be "n1w0"');
    const reversed = {
      ...plan,
      workers: [...plan.workers].reverse(),
      replicas: plan.replicas.map((layer) => layer.map((own) => own.map((w) => 2 - w))),
    };
    expect(inWorkerOrder(reversed, plan.workers)).toEqual(plan);
  });
});
