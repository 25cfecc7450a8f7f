import fc from 'fast-check';
import { expect, it } from 'vitest';
import { HomeCovers, NodeCover, popcount } from '../src/cluster/node-set.ts';

/** All smallest sets of nodes that meet every mask, by trying all. */
function smallestCovers(masks: number[], nodes: number): number[] {
  let best: number[] = [];
  let size = Infinity;
  for (let set = 0; set < 1 << nodes; set++) {
    if (!masks.every((m) => (m & set) !== 0) || popcount(set) > size) continue;
    if (popcount(set) < size) best = [];
    size = popcount(set);
    best.push(set);
  }
  return best;
}

it('finds the smallest covers, their union, and the first in the order of the rule', () => {
  const nodes = 6;
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: (1 << nodes) - 1 }), { minLength: 1, maxLength: 8 }), (masks) => {
      const cover = new NodeCover();
      const covers = smallestCovers(masks, nodes);
      cover.masks.set(masks);
      expect(cover.solveUnion(masks.length)).toBe(popcount(covers[0]));
      expect(cover.union).toBe(covers.reduce((a, b) => a | b, 0));
      const bits = (set: number) => Array.from({ length: nodes }, (_, n) => n).filter((n) => (set >>> n) & 1);
      const before = (a: number[], b: number[]) =>
        a.findIndex((n, i) => n !== b[i]) >= 0 && a[a.findIndex((n, i) => n !== b[i])] < b[a.findIndex((n, i) => n !== b[i])];
      const first = covers.reduce((a, b) => (before(bits(b), bits(a)) ? b : a));
      expect(cover.solveFirst(masks.length)).toBe(first);
    }),
    { numRuns: 400 },
  );
});

it('covers a token from every home as from each alone', () => {
  const nodes = 6;
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: (1 << nodes) - 1 }), { minLength: 1, maxLength: 8 }), (masks) => {
      const covers = new HomeCovers(nodes);
      const cover = new NodeCover();
      covers.masks.set(masks);
      covers.solve(masks.length);
      for (let home = 0; home < nodes; home++) {
        const away = masks.filter((m) => ((m >>> home) & 1) === 0);
        cover.masks.set(away);
        expect(covers.rows[home]).toBe(away.length);
        expect(covers.visited[home]).toBe(away.length === 0 ? 0 : cover.solveFirst(away.length));
      }
    }),
    { numRuns: 400 },
  );
});
