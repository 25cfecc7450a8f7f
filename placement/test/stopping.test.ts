import { expect, it, vi } from 'vitest';
import { FanOutSearch } from '../src/solve/fan-out-search.ts';
import { fourNodesOptions, toyTrace } from './slice.ts';

it('hears the end in the midst of replicas and homes', async () => {
  const trace = toyTrace({ layers: 12, experts: 8, topK: 2, sequences: 12, tokensEach: 5 });
  let asked = 0;
  const stop = () => asked++ >= 3;
  const options = { ...fourNodesOptions(), slots: new Int32Array(4).fill(30), stop };
  const homes = Int32Array.from(trace.sequences, (_, s) => s % 4);
  const search = new FanOutSearch(trace, homes, options);
  search.placeSingles();
  const before = search.result();
  const priced = search.layers.flatMap((layer) => [vi.spyOn(layer, 'gains'), vi.spyOn(layer, 'homeCosts')]);
  const layersPriced = () => priced.filter((spy) => spy.mock.calls.length > 0).length;
  for (const step of [() => search.addReplicas(), () => search.exchangeReplicas(), () => search.reassignHomes()]) {
    asked = 0;
    for (const spy of priced) spy.mockClear();
    expect(await step()).toBe(0);
    expect(layersPriced()).toBeGreaterThan(0);
    expect(layersPriced()).toBeLessThan(4);
    expect(search.result()).toEqual(before);
  }
});
