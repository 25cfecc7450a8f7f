import { describe, expect, it } from 'vitest';
import { parseTopology } from '../src/index.ts';

const worker = { name: 'n0w0', expertMemoryBytes: 1e9, relativeSpeed: 1 };
const good = {
  format: 'switchyard-topology',
  version: 1,
  nodes: [
    { name: 'n0', workers: [worker] },
    { name: 'n1', workers: [{ ...worker, name: 'n1w0' }] },
  ],
  expertBytes: 1000,
  dispatchRowBytes: 5760,
  combineRowBytes: 5760,
  intraNode: { bandwidth: 5e10, latency: 5e-6 },
  interNode: { bandwidth: 1.25e9, latency: 3e-5 },
  links: [{ from: 0, to: 1, bandwidth: 1e9, latency: 0 }],
};

describe('a topology file', () => {
  it('is read as it is written, with or without links', () => {
    expect(parseTopology(good)).toEqual(good);
    expect(parseTopology({ ...good, links: undefined }).links).toBeNull();
  });

  const nodesWith = (change: object) => [{ name: 'n0', workers: [{ ...worker, ...change }] }, good.nodes[1]];
  const workersOf = (...counts: number[]) =>
    counts.map((count, n) => ({ name: `n${n}`, workers: Array.from({ length: count }, (_, w) => ({ ...worker, name: `n${n}w${w}` })) }));
  it.each([
    [null, 'topology: file is null, must be an object'],
    [{ ...good, format: 'switchyard-plan' }, 'topology: format is "switchyard-plan", must be "switchyard-topology"'],
    [{ ...good, version: 2 }, 'topology: version is 2, must be 1'],
    [{ ...good, nodes: undefined }, 'topology: nodes is absent, must be a list'],
    [{ ...good, nodes: [null] }, 'topology: nodes[0] is null, must be an object'],
    [{ ...good, nodes: [{ name: 'n0' }] }, 'topology: nodes[0].workers is absent, must be a list'],
    [{ ...good, nodes: nodesWith({ name: undefined }) }, 'topology: nodes[0].workers[0].name is absent'],
    [{ ...good, nodes: nodesWith({ name: 'x'.repeat(257) }) }, 'must be text of 1..256'],
    [{ ...good, nodes: nodesWith({ name: 'n1w0' }) }, 'name of one of the workers is "n1w0", must be unlike all others'],
    [{ ...good, nodes: nodesWith({ expertMemoryBytes: 'lots' }) }, 'expertMemoryBytes is "lots", must be a number of at least 0'],
    [{ ...good, nodes: nodesWith({ relativeSpeed: 0 }) }, 'relativeSpeed is 0, must be a number above 0'],
    [{ ...good, intraNode: undefined }, 'topology: intraNode is absent, must be an object'],
    [{ ...good, interNode: { bandwidth: 'fast', latency: 0 } }, 'interNode.bandwidth is "fast", must be a number above 0'],
    [{ ...good, nodes: [] }, 'topology: nodes.length is 0, must be 1..1024'],
    [{ ...good, nodes: [{ name: 'n0', workers: [] }] }, 'topology: nodes[0].workers.length is 0, must be 1..1024'],
    [{ ...good, nodes: [good.nodes[0], { ...good.nodes[1], name: 'n0' }] }, 'name of one of the nodes is "n0", must be unlike all others'],
    [{ ...good, nodes: [{ ...good.nodes[0], name: '' }] }, 'topology: nodes[0].name is "", must be text of 1..256'],
    [{ ...good, nodes: workersOf(1024, 1) }, 'topology: workers of all nodes is 1025, must be at most 1024'],
    [{ ...good, expertBytes: 0 }, 'topology: expertBytes is 0, must be a number above 0'],
    [{ ...good, dispatchRowBytes: -1 }, 'topology: dispatchRowBytes is -1, must be a number above 0'],
    [{ ...good, combineRowBytes: undefined }, 'topology: combineRowBytes is absent, must be a number above 0'],
    [{ ...good, intraNode: { bandwidth: 1, latency: -1 } }, 'intraNode.latency is -1, must be a number of at least 0'],
    [{ ...good, links: 5 }, 'topology: links is 5, must be a list'],
    [{ ...good, links: new Array(1024 ** 2 + 1) }, 'topology: links.length is 1048577, must be 0..1048576'],
    [{ ...good, links: [{ ...good.links[0], from: 0.5 }] }, 'links[0].from is 0.5, must be an integer in 0..1'],
    [{ ...good, links: [{ ...good.links[0], to: 2 }] }, 'links[0].to is 2, must be an integer in 0..1'],
  ])('that is wrong is refused by field, value and limit: %#', (file, message) => {
    expect(() => parseTopology(file)).toThrow(message);
  });
});
