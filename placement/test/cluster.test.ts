import type { Topology } from '@switchyard/proto';
import { describe, expect, it } from 'vitest';
import { clusterOf } from '../src/index.ts';
import { testTopology } from './slice.ts';

const link = { from: 0, to: 1, bandwidth: 1e9, latency: 1e-5 };

describe('a topology that no cluster has', () => {
  it.each<[string, (topology: Topology) => void, string]>([
    [
      'memory below nothing',
      ({ nodes }) => Object.assign(nodes[0].workers[0], { expertMemoryBytes: -1 }),
      'expertMemoryBytes is -1, must be',
    ],
    [
      'memory that is no number',
      ({ nodes }) => Object.assign(nodes[1].workers[0], { expertMemoryBytes: Number.NaN }),
      'expertMemoryBytes is NaN',
    ],
    ['an endless expert', (topology) => Object.assign(topology, { expertBytes: Infinity }), 'expertBytes is Infinity, must be'],
    [
      'rows that add up to no number',
      (topology) => Object.assign(topology, { combineRowBytes: 1e308 }),
      'combineRowBytes is 1e+308, must be',
    ],
    [
      // Two of them are faster than a double can say.
      'a speed that adds up to no number',
      ({ nodes }) => Object.assign(nodes[1].workers[0], { relativeSpeed: 1e308 }),
      'topology: nodes[1].workers[0].relativeSpeed is 1e+308, must be a number in 0.000001..1000000',
    ],
    [
      'a speed that rounds to none',
      ({ nodes }) => Object.assign(nodes[0].workers[0], { relativeSpeed: 1e-308 }),
      'relativeSpeed is 1e-308',
    ],
    ['a link that never ends', (topology) => Object.assign(topology, { links: [{ ...link, latency: Infinity }] }), 'latency is Infinity'],
    [
      'a link without time',
      (topology) => Object.assign(topology, { links: [{ ...link, bandwidth: 1e300 }] }),
      'links[0].bandwidth is 1e+300',
    ],
    [
      'a link named twice',
      (topology) => Object.assign(topology, { links: [link, link] }),
      'topology: links[1] is "0 to 1", must be named once',
    ],
    [
      'workers of one name',
      ({ nodes }) => Object.assign(nodes[1].workers[0], { name: 'n0w0' }),
      'name of one of the workers is "n0w0", must be unlike all others',
    ],
  ])('is refused: %s', (_, change, message) => {
    const topology = testTopology(2, 1, 10);
    change(topology);
    expect(() => clusterOf(topology)).toThrow(message);
  });

  it('has links, but one node: none is between nodes', () => {
    expect(clusterOf({ ...testTopology(1, 2, 10), links: [{ ...link, to: 0 }] }).linkPrice).toBeNull();
  });
});
