import { chooseReplicas } from '@switchyard/proto';
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { batchOrder, evenCluster, scoreFanOut, seededRandom } from '../src/index.ts';
import { layerRule } from '../src/score/fan-out-score.ts';
import { gptOssSlice, toyTrace } from './slice.ts';

it('the fast rule chooses what the router chooses', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 1e9 }),
      fc.constantFrom([2, 3], [4, 2], [7, 1], [1, 4], [32, 1], [33, 1], [100, 2]),
      (seed, [nodes, perNode]) => {
        const random = seededRandom(seed);
        const cluster = evenCluster(nodes, perNode, 100);
        const workers = nodes * perNode;
        const experts = 10;
        const replicas = Array.from({ length: experts }, () => {
          const held = new Set<number>();
          for (let i = 0; i <= random.below(3); i++) held.add(random.below(workers));
          return [...held].sort((a, b) => a - b);
        });
        const load = Float64Array.from({ length: workers }, () => random.below(5));
        const fast = layerRule(replicas, cluster);
        for (let t = 0; t < 20; t++) {
          const chosen = Int32Array.from(new Set(Array.from({ length: 5 }, () => random.below(experts))));
          const home = random.below(workers);
          const a = new Int32Array(chosen.length);
          const b = new Int32Array(chosen.length);
          chooseReplicas(chosen, chosen.length, replicas, cluster.nodeOf, home, load, a);
          fast(chosen, chosen.length, home, load, b);
          expect([...b]).toEqual([...a]);
        }
      },
    ),
    { numRuns: 150 },
  );
});

it.each([3, 100])('scores a trace as the rule would serve it, token by token, on %i nodes', async (nodeCount) => {
  const trace = await gptOssSlice();
  const cluster = evenCluster(nodeCount, 2, 24 * 40);
  const workers = 2 * nodeCount;
  const random = seededRandom(5);
  const replicas = Array.from({ length: 24 }, () =>
    Array.from({ length: 32 }, () => [...new Set([random.below(workers), random.below(workers)])].sort((a, b) => a - b)),
  );
  const homes = Int32Array.from(trace.sequences, () => random.below(workers));
  const score = scoreFanOut(trace, replicas, cluster, homes);
  let visits = 0;
  let atHome = 0;
  const rows = new Float64Array(24 * workers);
  const out = new Int32Array(4);
  const order = batchOrder(trace, 64);
  for (let l = 0; l < 24; l++)
    for (const t of order) {
      const home = homes[trace.sequenceOf[t]];
      const load = rows.subarray(l * workers, (l + 1) * workers);
      chooseReplicas(trace.ids.subarray((t * 24 + l) * 4, (t * 24 + l) * 4 + 4), 4, replicas[l], cluster.nodeOf, home, load, out);
      const nodes = new Set<number>();
      for (const w of out) {
        load[w]++;
        nodes.add(cluster.nodeOf[w]);
        if (cluster.nodeOf[w] === cluster.nodeOf[home]) atHome++;
      }
      nodes.delete(cluster.nodeOf[home]);
      visits += nodes.size;
    }
  expect(score.remoteNodes).toBeCloseTo(visits / trace.tokens / 24, 12);
  expect(score.homeShare).toBeCloseTo(atHome / trace.tokens / 96, 12);
  expect([...score.rows]).toEqual([...rows]);
  expect(score.linkRows.reduce((a, b) => a + b, 0)).toBeCloseTo(visits / trace.tokens, 9);
});

it('interleaves sequences and loses no token', async () => {
  const trace = await gptOssSlice();
  expect([...batchOrder(trace, 7)].sort((a, b) => a - b)).toEqual(Array.from({ length: trace.tokens }, (_, t) => t));
});

it('looks at every layer of a trace that is shorter than a step', () => {
  const trace = toyTrace({ layers: 2, experts: 4, topK: 1, sequences: 2, tokensEach: 4 });
  // Layer 0 is even over two workers, layer 1 all on one of them.
  trace.ids.forEach((_, i) => {
    trace.ids[i] = i % 2 === 0 ? (i / 2) % 2 : 0;
  });
  const replicas = [0, 1].map(() => [[0], [1], [0], [1]]);
  expect(scoreFanOut(trace, replicas, evenCluster(2, 1, 8), new Int32Array(2)).stepPeakMean).toBe(1.5);
});
