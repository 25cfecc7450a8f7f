import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { clusterOf, evenSplitLoads, expertLoads, peakOverMean, place, placeLoads } from '../src/index.ts';
import { expectValid, gptOssSlice, testTopology, toyTrace } from './slice.ts';

/** One node for each list, one worker for each number of experts in it. */
function unevenTopology(memory: readonly (readonly number[])[]) {
  const topology = testTopology(memory.length, 1, 1);
  topology.nodes = memory.map((workers, n) => ({
    name: `n${n}`,
    workers: workers.map((experts, w) => ({ name: `n${n}w${w}`, expertMemoryBytes: 1000 * experts, relativeSpeed: 1 })),
  }));
  return topology;
}

describe('uneven memory', () => {
  it('gives a small node what it holds, and no more', async () => {
    const trace = toyTrace({ layers: 32, experts: 8, topK: 2, sequences: 8, tokensEach: 10 });
    for (const memory of [
      [130, 130, 130, 10],
      [65, 65, 65, 65],
      [100, 90, 80, 3],
    ]) {
      const topology = unevenTopology(memory.map((m) => [m]));
      const { plan } = await place(trace, topology, { starts: 1, replicas: 0.25, programColumns: 0 });
      expectValid(plan, memory);
    }
  });

  it('counts up to one copy of everything: two workers that hold all of it share it evenly, whatever else they have', async () => {
    const shape = { layers: 4, experts: 16 };
    const trace = toyTrace({ ...shape, topK: 2, sequences: 12, tokensEach: 20 });
    const topology = unevenTopology([[640], [64]]);
    const { plan, score } = await place(trace, topology, { starts: 1, replicas: 0.25, programColumns: 0 });
    expect(plan.replicas.flat(2)).toHaveLength(80);
    expect(score.nodePeakMean).toBeLessThan(1.15);
    const loads = await placeLoads(expertLoads(trace), topology, { replicas: 0, seed: 1, effort: 50 });
    expect(loads.replicas.flat(2).filter((w) => w === 0)).toHaveLength(32);
  });

  it('is used by every layer in proportion, so that none lives on the large workers alone', async () => {
    const loads = expertLoads(await gptOssSlice());
    for (const memory of [
      [480, 320],
      [400, 400, 200, 200],
    ]) {
      const topology = unevenTopology([memory]);
      const plan = await placeLoads(loads, topology, { replicas: 0, seed: 1, effort: 50 });
      expectValid(plan, memory);
      const peaks = plan.replicas.map((layer, l) =>
        peakOverMean(
          evenSplitLoads(loads.counts.subarray(l * loads.experts, (l + 1) * loads.experts), layer, memory.length),
          clusterOf(topology).speedOf,
        ),
      );
      expect(Math.max(...peaks)).toBeLessThan(1.1);
    }
  });

  it('of any kind, with any budget for replicas and in every model, ends in a plan that fits', async () => {
    const layers = 12;
    const experts = 8;
    const trace = toyTrace({ layers, experts, topK: 2, sequences: 6, tokensEach: 6 });
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.array(fc.integer({ min: 0, max: 60 }), { minLength: 1, maxLength: 2 }), { minLength: 1, maxLength: 4 }),
        fc.double({ min: 0, max: 1.5, noNaN: true }),
        fc.constantFrom('fan-out' as const, 'fan-out' as const, 'home-rank' as const, 'chain' as const),
        fc.constantFrom(null, null, 4),
        async (memory, replicas, model, groups) => {
          const lacking = layers * experts - memory.flat().reduce((a, b) => a + b, 0);
          if (lacking > 0) memory[0][0] += lacking;
          const topology = unevenTopology(memory);
          const wholeGroups = model === 'chain' ? null : groups;
          // The chain model would try for long to balance what cannot be; others ask less often than this.
          let asked = 0;
          const placed = place(trace, topology, {
            starts: 1,
            replicas,
            model,
            wholeGroups,
            programColumns: 0,
            now: () => asked++,
            deadlineMs: 3000,
          });
          // Whole groups need more room than single experts: they may be refused, by their own words.
          const plan = await placed.then(
            (found) => found.plan,
            (error: Error) => {
              if (wholeGroups === null || !error.message.includes('groups are kept whole')) throw error;
              return null;
            },
          );
          if (plan !== null) expectValid(plan, clusterOf(topology).slotsOf);
        },
      ),
      { numRuns: 25, seed: 7 },
    );
  });
});
