import { expect, it } from 'vitest';
import { FanOutSearch } from '../src/solve/fan-out-search.ts';
import { fourNodesOptions, toyTrace } from './slice.ts';

it('lets nodes of equal memory trade places though their limits were rounded apart, within the limits', () => {
  const trace = toyTrace({ layers: 4, experts: 16, topK: 2, sequences: 8, tokensEach: 20 });
  const far = 5;
  const linkPrice = Float64Array.from({ length: 16 }, (_, i) => (Math.floor(i / 4) >> 1 === (i % 4) >> 1 ? 1 : far));
  const options = fourNodesOptions();
  const slots = Int32Array.from([17, 18, 17, 18]);
  // Sequences and experts of nodes 0 and 2 belong together, and those of 1 and 3: their places are in the wrong racks.
  const homes = Int32Array.from(trace.sequences, (_, s) => [0, 2, 1, 3][Math.floor(s / 2)]);
  const cost = (memory: Int32Array | undefined) => {
    const search = new FanOutSearch(trace, homes, {
      ...options,
      slots,
      ...(memory === undefined ? {} : { memory }),
      prices: { ...options.prices, linkPrice },
    });
    search.placeSingles();
    const before = search.objective();
    search.tradePlaces();
    for (const free of search.free) expect(free).toBeGreaterThanOrEqual(0);
    return { before, after: search.objective() };
  };
  const apart = cost(undefined);
  const alike = cost(new Int32Array(4).fill(20));
  expect(alike.after).toBeLessThan(alike.before);
  expect(alike.after).toBeLessThan(apart.after);
});
