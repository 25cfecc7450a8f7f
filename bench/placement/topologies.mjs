/** Equal nodes on 10 Gbit/s Ethernet, equal workers, memory counted in experts. */
export function evenTopology({ nodes, workersPerNode, expertsPerWorker, expertBytes = 25_000_000, rowBytes = 5760 }) {
  return {
    format: 'switchyard-topology',
    version: 1,
    nodes: Array.from({ length: nodes }, (_, n) => ({
      name: `n${n}`,
      workers: Array.from({ length: workersPerNode }, (_, w) => ({
        name: `n${n}w${w}`,
        expertMemoryBytes: expertsPerWorker * expertBytes,
        relativeSpeed: 1,
      })),
    })),
    expertBytes,
    dispatchRowBytes: rowBytes,
    combineRowBytes: rowBytes,
    intraNode: { bandwidth: 50e9, latency: 5e-6 },
    interNode: { bandwidth: 1.25e9, latency: 30e-6 },
    links: null,
  };
}
