/** What the cluster looks like to the planner. Bandwidths in bytes/s, latencies in seconds one way, memory in bytes. */
export interface Topology {
  format: 'switchyard-topology';
  version: 1;
  nodes: { name: string; workers: { name: string; expertMemoryBytes: number; relativeSpeed: number }[] }[];
  expertBytes: number;
  /** Bytes of one dispatched row and of one returned row. */
  dispatchRowBytes: number;
  combineRowBytes: number;
  intraNode: { bandwidth: number; latency: number };
  interNode: { bandwidth: number; latency: number };
  /** Full matrix between nodes where they are not all alike: overrides interNode. */
  links: { from: number; to: number; bandwidth: number; latency: number }[] | null;
}
