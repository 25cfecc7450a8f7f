import { describe, expect, it } from 'vitest';
import {
  type Cluster,
  holdOut,
  place,
  prove,
  type RoutingTrace,
  scoreFanOut,
  seededRandom,
  verifyCertificate,
  writeSwitchyardTrace,
} from '../src/index.ts';
import { readSwitchyardTrace } from '../src/trace/switchyard-format.ts';
import { bytesOf, gptOssSlice, testTopology } from './slice.ts';

interface Shape {
  layers: number;
  experts: number;
  topK: number;
  /** Groups of a layer, and how many a token is kept inside; 1 and 1: none. */
  groups: number;
  kept: number;
}

/** Random routing of a group-limited model: `kept` groups at random, and in each topK / kept of its experts at random. */
function randomRouting(shape: Shape, tokens: number, seed: number): RoutingTrace {
  const { layers, experts, topK, groups, kept } = shape;
  const random = seededRandom(seed);
  const some = (count: number, of: number): number[] => {
    const chosen = new Set<number>();
    while (chosen.size < count) chosen.add(random.below(of));
    return [...chosen];
  };
  const size = experts / groups;
  const ids = new Uint16Array(tokens * layers * topK);
  for (let row = 0; row < tokens * layers; row++)
    ids.set(
      some(kept, groups).flatMap((group) => some(topK / kept, size).map((e) => group * size + e)),
      row * topK,
    );
  const perSequence = 50;
  return {
    model: 'deepseek_v3',
    moeLayers: Array.from({ length: layers }, (_, l) => l),
    experts,
    topK,
    tokens,
    ids,
    sequenceOf: Uint32Array.from({ length: tokens }, (_, t) => Math.floor(t / perSequence)),
    generated: new Uint8Array(tokens),
    sequences: Array.from({ length: tokens / perSequence }, (_, sequence) => ({ sequence, domain: null, tokens: perSequence })),
    ...(groups > 1 ? { groups } : {}),
  };
}

/** Nodes on which the whole of each group lives, [layer][group]. */
function wholeOn(masks: readonly Int32Array[], groups: number): number[][] {
  return masks.map((layer) =>
    Array.from({ length: groups }, (_, g) => {
      const size = layer.length / groups;
      return layer.slice(g * size, (g + 1) * size).reduce((all, mask) => all & mask, -1);
    }),
  );
}

/** Remote nodes a token and layer where homes know nothing of what their sequences choose. One worker a node. */
const r = (trace: RoutingTrace, plan: { replicas: number[][][] }, cluster: Cluster) =>
  scoreFanOut(
    trace,
    plan.replicas,
    cluster,
    Int32Array.from(trace.sequences, (_, s) => s % cluster.nodes),
  ).remoteNodes;

const quick = { starts: 1, replicas: 0 };

describe('whole groups', () => {
  it('of random V3 routing on 8 nodes cost 3.5 remote nodes a token and layer, where flat routing costs 4.63', async () => {
    // N (1 - C(G - G/N, kept) / C(G, kept)) (N - 1) / N for G = N = 8, kept = 4; and N (1 - C(E - E/N, k) / C(E, k)) (N - 1) / N for E = 256, k = 8.
    const v3 = { layers: 2, experts: 256, topK: 8, groups: 8, kept: 4 };
    const [limited, flat] = [randomRouting(v3, 4000, 1), randomRouting({ ...v3, groups: 1, kept: 1 }, 4000, 2)];
    const topology = testTopology(8, 1, 64);
    const { train, test } = holdOut(limited, 0.5, 1);
    const { plan, masks, cluster } = await place(train, topology, { ...quick, wholeGroups: 8 });
    for (const on of wholeOn(masks, 8).flat()) expect(on).not.toBe(0);
    expect(Math.abs(r(test, plan, cluster) / 3.5 - 1)).toBeLessThan(0.02);
    const parts = holdOut(flat, 0.5, 1);
    const free = await place(parts.train, topology, { ...quick, sampleTokens: 500 });
    expect(Math.abs(r(parts.test, free.plan, cluster) / 4.63 - 1)).toBeLessThan(0.02);
  });

  it('work where neither groups nor workers are even, with extra copies beside them that save visits', async () => {
    const trace = randomRouting({ layers: 3, experts: 48, topK: 4, groups: 8, kept: 2 }, 2000, 3);
    const topology = testTopology(3, 2, 36);
    const visits: number[] = [];
    for (const replicas of [0, 0.3]) {
      const { plan, masks, score } = await place(trace, topology, { ...quick, replicas, wholeGroups: 8 });
      for (const on of wholeOn(masks, 8).flat()) expect(on).not.toBe(0);
      const used = new Int32Array(6);
      for (const holders of plan.replicas.flat()) {
        expect(holders.length).toBeGreaterThan(0);
        for (const w of holders) used[w]++;
      }
      for (const count of used) expect(count).toBeLessThanOrEqual(36);
      expect(used.reduce((a, b) => a + b, 0)).toBeLessThanOrEqual(3 * 48 * (1 + replicas));
      expect(plan.provenance?.wholeGroups).toBe(8);
      visits.push(score.remoteNodes);
    }
    expect(visits[1]).toBeLessThan(0.98 * visits[0]!);
  });

  it('hold the limit of peaks, with copies that follow the homes', async () => {
    const trace = await gptOssSlice();
    const placed = async (replicas: number) => (await place(trace, testTopology(4, 1, 960), { starts: 1, replicas, wholeGroups: 8 })).score;
    const [some, more] = [await placed(0.25), await placed(0.5)];
    expect(some.nodePeakMean).toBeLessThan(1.13);
    expect(more.nodePeakMean).toBeLessThan(1.13);
    expect(more.remoteNodes).toBeLessThan(1.23);
  });

  it('keep the certificate: its bound holds for all plans, so for these', async () => {
    const trace = randomRouting({ layers: 2, experts: 32, topK: 4, groups: 4, kept: 2 }, 1000, 4);
    const { plan, cluster, homes, score } = await place(trace, testTopology(4, 1, 20), { ...quick, wholeGroups: 4 });
    const certificate = await prove(plan, cluster, trace, { homes, claims: ['fan-out', 'load'], rounds: 4 });
    const fanOut = certificate.claims.find((claim) => claim.kind === 'fan-out')!;
    expect(fanOut.score).toBeCloseTo(score.remoteNodes);
    expect(fanOut.bound).toBeLessThanOrEqual(fanOut.score);
    expect(verifyCertificate(plan, trace, certificate).checks.filter((check) => !check.ok)).toEqual([]);
  });

  it('are refused by what does not fit', async () => {
    const trace = randomRouting({ layers: 2, experts: 48, topK: 4, groups: 4, kept: 2 }, 500, 5);
    // Room for every expert, but each node for one group and a half of each layer.
    await expect(place(trace, testTopology(5, 1, 20), { ...quick, wholeGroups: 4 })).rejects.toThrow(
      /memory holds 5 groups of 12 experts; the model has 8 \(2 layers x 4\)/,
    );
    await expect(place(trace, testTopology(4, 1, 30), { ...quick, wholeGroups: 5 })).rejects.toThrow(/groups is 5, must divide the 48/);
    await expect(place(trace, testTopology(4, 1, 30), { ...quick, wholeGroups: 4, model: 'chain' })).rejects.toThrow(/without .*chain/);
    await expect(place(trace, testTopology(4, 1, 30), { ...quick, wholeGroups: 4, annealing: 9 })).rejects.toThrow(/without annealing/);
  });

  it('are known from the trace', async () => {
    const trace = randomRouting({ layers: 1, experts: 16, topK: 2, groups: 4, kept: 2 }, 50, 6);
    const written = writeSwitchyardTrace(trace, '2026-01-01T00:00:00Z');
    const bytes = Buffer.concat([...written.chunks]);
    const read = (of: Uint8Array) => readSwitchyardTrace(bytesOf(of), null, 'trace');
    expect((await read(bytes)).groups).toBe(4);
    const broken = Buffer.from(bytes.toString('latin1').replace('"groups":4', '"groups":3'), 'latin1');
    await expect(read(broken)).rejects.toThrow(/groups is 3, must divide the 16 experts/);
  });
});
