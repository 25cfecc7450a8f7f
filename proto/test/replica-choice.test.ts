import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { chooseReplicas, limits } from '../src/index.ts';

interface Case {
  nodeOf: number[];
  replicas: number[][];
  experts: number[];
  home: number;
  load: number[];
}

const cases: fc.Arbitrary<Case> = fc
  .record({ nodes: fc.integer({ min: 1, max: 6 }), workers: fc.integer({ min: 1, max: 8 }), experts: fc.integer({ min: 1, max: 8 }) })
  .chain(({ nodes, workers, experts }) => {
    const all = Array.from({ length: workers }, (_, w) => w);
    return fc.record({
      nodeOf: fc.array(fc.nat(nodes - 1), { minLength: workers, maxLength: workers }),
      replicas: fc.array(fc.subarray(all, { minLength: 1, maxLength: Math.min(3, workers) }), { minLength: experts, maxLength: experts }),
      experts: fc.subarray(
        Array.from({ length: experts }, (_, e) => e),
        { minLength: 1, maxLength: Math.min(6, experts) },
      ),
      home: fc.nat(workers - 1),
      load: fc.array(fc.nat(3), { minLength: workers, maxLength: workers }),
    });
  });

function choose({ experts, replicas, nodeOf, home, load }: Case): number[] {
  const out = new Int32Array(experts.length);
  chooseReplicas(experts, experts.length, replicas, nodeOf, home, load, out);
  return Array.from(out);
}

/** Clusters of many nodes, of which few or many hold what a token needs. */
const wideCases: fc.Arbitrary<Case> = fc
  .record({
    nodes: fc.constantFrom(65, 100, 200, limits.nodesMax),
    holders: fc.integer({ min: 3, max: 50 }),
    experts: fc.integer({ min: 2, max: 8 }),
    home: fc.nat(limits.workersMax),
  })
  .chain(({ nodes, holders, experts, home }) => {
    const all = Array.from({ length: nodes }, (_, n) => n);
    // Up to a third of them hold an expert, so that there is much to choose from and the smallest set stays small.
    const few = { minLength: 1, maxLength: Math.ceil(holders / 3) };
    return fc.subarray(all, { minLength: holders, maxLength: holders }).chain((used) =>
      fc.record({
        nodeOf: fc.constant(all),
        replicas: fc.array(fc.subarray(used, few), { minLength: experts, maxLength: experts }),
        experts: fc.constant(all.slice(0, experts)),
        home: fc.constant(home % nodes),
        load: fc.constant(all.map(() => 0)),
      }),
    );
  });

/** The rule as it is told, by trying sets of nodes that hold what is missing: fewest first, then the lexicographically smallest. */
function bruteForce({ experts, replicas, nodeOf, home, load }: Case): number[] {
  const on = (e: number, node: number) => replicas[e].filter((w) => nodeOf[w] === node);
  const leastLoaded = (holders: number[]) => holders.reduce((best, w) => (load[w] < load[best] ? w : best));
  const here = (e: number) => (replicas[e].includes(home) ? home : on(e, nodeOf[home]).length > 0 ? leastLoaded(on(e, nodeOf[home])) : -1);
  const missing = experts.filter((e) => here(e) < 0);
  const holding = missing.map((e) => new Set(replicas[e].map((w) => nodeOf[w])));
  const nodes = [...new Set(holding.flatMap((set) => [...set]))].sort((a, b) => a - b);
  const covers = (set: number[]) => holding.every((own) => set.some((n) => own.has(n)));
  let cover: number[] | undefined;
  for (let size = 0; cover === undefined; size++) cover = firstSet(nodes, size, covers);
  return experts.map((e) => {
    if (here(e) >= 0) return here(e);
    return leastLoaded(on(e, cover.find((n) => on(e, n).length > 0)!));
  });
}

/** Of the sets of so many nodes, in lexicographic order, the first that will do. */
function firstSet(nodes: number[], size: number, good: (set: number[]) => boolean, from: number[] = []): number[] | undefined {
  if (size === 0) return good(from) ? from : undefined;
  for (let i = 0; i + size <= nodes.length; i++) {
    const found = firstSet(nodes.slice(i + 1), size - 1, good, [...from, nodes[i]]);
    if (found !== undefined) return found;
  }
}

describe('chooseReplicas', () => {
  it('does what the rule says', () => {
    fc.assert(
      fc.property(cases, (given) => {
        expect(choose(given)).toEqual(bruteForce(given));
      }),
      { numRuns: 2000 },
    );
  });

  it('does so on any number of nodes', () => {
    fc.assert(
      fc.property(wideCases, (given) => {
        expect(choose(given)).toEqual(bruteForce(given));
      }),
      { numRuns: 500 },
    );
  });

  it('chooses holders only, and visits as few nodes whatever the loads are', () => {
    fc.assert(
      fc.property(cases, fc.array(fc.nat(9), { minLength: 8, maxLength: 8 }), (given, otherLoad) => {
        const chosen = choose(given);
        for (const [i, e] of given.experts.entries()) expect(given.replicas[e]).toContain(chosen[i]);
        const visited = (workers: number[]) => [...new Set(workers.map((w) => given.nodeOf[w]))].sort();
        expect(visited(choose({ ...given, load: otherLoad }))).toEqual(visited(chosen));
      }),
    );
  });

  it('covers thirty-two experts on many nodes', () => {
    const experts = Array.from({ length: 32 }, (_, e) => e);
    const given = {
      experts,
      replicas: experts.map((e) => [1 + (e % 8)]),
      nodeOf: [0, 1, 2, 3, 4, 5, 6, 7, 8],
      home: 0,
      load: new Array(9).fill(0),
    };
    expect(choose(given)).toEqual(experts.map((e) => 1 + (e % 8)));
  });

  it.each([30, 31, 32])('covers %i experts of which home holds the others', (remote) => {
    const experts = Array.from({ length: 32 }, (_, e) => e);
    const replicas = experts.map((e) => [e >= remote ? 0 : 1 + (e % 2)]);
    expect(choose({ experts, replicas, nodeOf: [0, 1, 2], home: 0, load: [0, 0, 0] })).toEqual(replicas.map(([w]) => w));
  });

  it('works with the highest node numbers', () => {
    const nodeOf = [0, 31, 32, limits.nodesMax - 2, limits.nodesMax - 1];
    // The lower of two nodes comes first, whatever the loads.
    const given = {
      experts: [0, 1, 2, 3],
      replicas: [
        [1, 2],
        [1, 2],
        [3, 4],
        [3, 4],
      ],
      nodeOf,
      home: 0,
      load: [0, 5, 0, 5, 0],
    };
    expect(choose(given)).toEqual([1, 1, 3, 3]);
  });

  it('says so when an expert has no replica', () => {
    expect(() => choose({ experts: [0], replicas: [[]], nodeOf: [0], home: 0, load: [0] })).toThrow(/no replica/);
  });
});
