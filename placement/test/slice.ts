import type { Topology } from '@switchyard/proto';
import { expect } from 'vitest';
import { openTrace, type RoutingTrace, seededRandom } from '../src/index.ts';
import type { FanOutSearchOptions } from '../src/solve/fan-out-search.ts';

/** 48 sequences of the gpt-oss-20b trace, 60 tokens each. */
export async function gptOssSlice(): Promise<RoutingTrace> {
  const input = await openTrace(new URL('./fixtures/gpt-oss-20b-slice.trace.gz', import.meta.url).pathname);
  if (input.kind !== 'routing') throw new Error('the fixture is a routing trace');
  return input.trace;
}

export function testTopology(nodes: number, workersPerNode: number, expertsPerWorker: number): Topology {
  return {
    format: 'switchyard-topology',
    version: 1,
    nodes: Array.from({ length: nodes }, (_, n) => ({
      name: `n${n}`,
      workers: Array.from({ length: workersPerNode }, (_, w) => ({
        name: `n${n}w${w}`,
        expertMemoryBytes: expertsPerWorker * 1000,
        relativeSpeed: 1,
      })),
    })),
    expertBytes: 1000,
    dispatchRowBytes: 5760,
    combineRowBytes: 5760,
    intraNode: { bandwidth: 50e9, latency: 5e-6 },
    interNode: { bandwidth: 1.25e9, latency: 30e-6 },
    links: null,
  };
}

export async function* bytesOf(...parts: (string | Uint8Array)[]): AsyncGenerator<Uint8Array> {
  for (const part of parts) yield typeof part === 'string' ? new TextEncoder().encode(part) : part;
}

/** Tokens that choose experts at random, but those of one sequence mostly the same ones. */
export function toyTrace(
  shape: { layers: number; experts: number; topK: number; sequences: number; tokensEach: number },
  seed = 1,
): RoutingTrace {
  const { layers, experts, topK, sequences, tokensEach } = shape;
  const random = seededRandom(seed);
  const ids: number[] = [];
  for (let t = 0; t < sequences * tokensEach; t++)
    for (let l = 0; l < layers; l++) {
      const chosen = new Set<number>();
      while (chosen.size < topK)
        chosen.add((random.next() < 0.7 ? Math.floor(t / tokensEach) + l + chosen.size : random.below(experts)) % experts);
      ids.push(...chosen);
    }
  return {
    model: 'toy',
    moeLayers: Array.from({ length: layers }, (_, l) => l),
    experts,
    topK,
    tokens: sequences * tokensEach,
    ids: Uint16Array.from(ids),
    sequenceOf: Uint32Array.from({ length: sequences * tokensEach }, (_, t) => Math.floor(t / tokensEach)),
    generated: new Uint8Array(sequences * tokensEach),
    sequences: Array.from({ length: sequences }, (_, sequence) => ({
      sequence,
      domain: sequence % 3 === 0 ? 'rare' : 'common',
      tokens: tokensEach,
    })),
  };
}

/** Experts that most sequences choose together are those that the sequences of the rare domain never do: what serves one well serves the other badly. */
export function domainsApart(): RoutingTrace {
  const shape = { layers: 4, experts: 16, topK: 2, sequences: 24, tokensEach: 20 };
  const random = seededRandom(1);
  const trace = toyTrace(shape);
  trace.sequences.forEach((sequence, s) => {
    sequence.domain = s % 6 === 0 ? 'rare' : 'common';
  });
  for (let t = 0; t < trace.tokens; t++) {
    const group = random.below(4);
    for (let l = 0; l < shape.layers; l++) {
      const first = random.below(4);
      const chosen = [first, (first + 1 + random.below(3)) % 4];
      const rare = trace.sequences[trace.sequenceOf[t]].domain === 'rare';
      trace.ids.set(
        chosen.map((i) => (rare ? 4 * i + group : 4 * group + i)),
        (t * shape.layers + l) * shape.topK,
      );
    }
  }
  return trace;
}

/** Remote nodes that a token of the worst domain visits, at that domain's best home. */
export function worstDomain({ affinity }: { affinity: { domains: Record<string, number[]> } }): number {
  return Math.max(...Object.values(affinity.domains).map((costs) => Math.min(...costs)));
}

/** Every expert has a holder, none is named twice, and no worker holds more than its slots. */
export function expectValid(plan: { replicas: number[][][] }, slots: ArrayLike<number>): void {
  const used = new Int32Array(slots.length);
  const faults: string[] = [];
  plan.replicas.forEach((layer, l) => {
    layer.forEach((own, e) => {
      if (own.length === 0 || own.some((w, i) => i > 0 && own[i - 1] >= w)) faults.push(`expert ${e} of layer ${l} is on workers [${own}]`);
      for (const w of own) used[w]++;
    });
  });
  used.forEach((held, w) => {
    if (!(held <= slots[w])) faults.push(`worker ${w} holds ${held} experts of ${slots[w]}`);
  });
  expect(faults).toEqual([]);
}

/** Of a search over four nodes alike that hold a quarter more than one copy of the slice's experts. */
export function fourNodesOptions(): FanOutSearchOptions {
  const share = new Float64Array(4).fill(1 / 4);
  return {
    slots: new Int32Array(4).fill(240),
    balance: { share, tolerance: 0.05 },
    prices: { peakPrice: 1, share, linkPrice: null, visitPrice: 1, remoteRowPrice: 2 },
    peakMeanMax: 1.05,
    sequenceWeight: null,
    stop: () => false,
    pause: async () => {},
    candidatesMax: 500,
    onImproved: () => {},
  };
}
