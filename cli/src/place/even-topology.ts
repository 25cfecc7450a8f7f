import type { Topology } from '@switchyard/proto';

/** Equal nodes of one worker on 10 Gbit/s Ethernet: for questions that are about routing, not about a given cluster. */
export function evenNodes(count: number): Topology {
  return {
    format: 'switchyard-topology',
    version: 1,
    nodes: Array.from({ length: count }, (_, n) => ({
      name: `n${n}`,
      workers: [{ name: `n${n}w0`, expertMemoryBytes: 1e15, relativeSpeed: 1 }],
    })),
    expertBytes: 1e6,
    dispatchRowBytes: 5760,
    combineRowBytes: 5760,
    intraNode: { bandwidth: 50e9, latency: 5e-6 },
    interNode: { bandwidth: 1.25e9, latency: 30e-6 },
    links: null,
  };
}
