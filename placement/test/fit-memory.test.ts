import { expect, it } from 'vitest';
import { popcount } from '../src/cluster/node-set.ts';
import { seededRandom } from '../src/index.ts';
import { fitMemory } from '../src/solve/fit-memory.ts';

const shape = { layers: 12, experts: 16, nodes: 3 };

/** Layers whose experts have holders and rows at random, counting how often all of one are looked at. */
function holders(slots: number, copiesMax: number) {
  const random = seededRandom(3);
  let looked = 0;
  let dropped = 0;
  const layers = Array.from({ length: shape.layers }, () => {
    const served = Float64Array.from({ length: shape.experts * shape.nodes }, () => random.below(1000));
    return {
      maskOf: Int32Array.from({ length: shape.experts }, () => 1 + random.below(7)),
      get served() {
        looked++;
        return served;
      },
      apply(e: number, mask: number) {
        if (popcount(mask) < popcount(this.maskOf[e])) dropped++;
        this.maskOf[e] = mask;
      },
    };
  });
  const held = (n: number) => layers.reduce((sum, { maskOf }) => sum + maskOf.filter((mask) => (mask >>> n) & 1).length, 0);
  const free = Int32Array.from({ length: shape.nodes }, (_, n) => slots - held(n));
  return {
    layers,
    free,
    get spare() {
      return copiesMax - slots * shape.nodes + free.reduce((a, b) => a + b, 0);
    },
    held,
    counts: () => ({ looked, dropped }),
  };
}

it('drops the replicas with fewest rows until memory suffices, and looks again only at layers that changed', () => {
  const search = holders(80, 220);
  const before = search.layers.map(({ maskOf }) => maskOf.slice());
  fitMemory(search);
  for (let n = 0; n < shape.nodes; n++) expect(search.held(n)).toBe(80 - search.free[n]);
  expect(Math.min(...search.free)).toBeGreaterThanOrEqual(0);
  expect(search.spare).toBe(0);
  expect(search.layers.every(({ maskOf }) => maskOf.every((mask) => mask !== 0))).toBe(true);
  // Of the replicas of one node that could go, those that went served no more rows than those that stayed.
  const rows = (gone: boolean) =>
    search.layers.flatMap(({ maskOf, served }, l) =>
      Array.from(maskOf).flatMap((mask, e) =>
        (before[l][e] & 1) === 1 && popcount(mask) > (gone ? 0 : 1) && ((mask & 1) === 0) === gone ? [served[e * shape.nodes]] : [],
      ),
    );
  const { looked, dropped } = search.counts();
  expect(Math.max(...rows(true))).toBeLessThanOrEqual(Math.min(...rows(false)));
  expect(dropped).toBeGreaterThan(40);
  expect(looked).toBeLessThan(shape.layers + 2 * dropped);
});

it('moves single experts to where dropped replicas make room', () => {
  const search = holders(1000, 3000);
  for (const { maskOf } of search.layers) maskOf.fill(1);
  search.free.set([100 - shape.layers * shape.experts, 60, 60]);
  fitMemory(search);
  expect([...search.free]).toEqual([0, 0, 28]);
  expect(search.held(0)).toBe(100);
});
