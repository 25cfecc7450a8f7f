import fc from 'fast-check';
import { expect, it } from 'vitest';
import { NodeLoads } from '../src/solve/node-loads.ts';

const rows = fc.array(fc.nat(100), { minLength: 2, maxLength: 7 });

it('tells what an exchange makes of the fullest node, as counting all nodes again does', () => {
  fc.assert(
    fc.property(rows, fc.nat(), fc.nat(), fc.nat(50), fc.nat(50), (held, i, j, there, back) => {
      const nodes = held.length;
      const [a, b] = [i % nodes, (i + 1 + (j % (nodes - 1))) % nodes];
      const share = Float64Array.from({ length: nodes }, (_, n) => (n + 1) / ((nodes * (nodes + 1)) / 2));
      const loads = new NodeLoads(share);
      loads.rows.set(held);
      expect(loads.rank()).toBe(loads.fullestNode());
      const before = loads.peak();
      expect(loads.pressure(loads.fullestNode())).toBe(before);
      const [fromA, fromB] = [Math.min(there, held[a]), Math.min(back, held[b])];
      const more = new Float64Array(nodes);
      more[a] = fromB - fromA;
      more[b] = fromA - fromB;
      const fall = loads.exchanged(a, b, fromA, fromB);
      expect(fall).toBeCloseTo(before - loads.peak(more), 9);
      expect(fall).toBeLessThanOrEqual(loads.exchangedMax() + 1e-9);
    }),
  );
});
