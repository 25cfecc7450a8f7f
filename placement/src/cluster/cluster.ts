import { limits, SwitchyardError, type Topology } from '@switchyard/proto';
import { maskNodesMax } from './node-set.ts';

/** A topology as the solvers see it: workers in one list, memory counted in experts. */
export interface Cluster {
  nodes: number;
  nodeNames: string[];
  workers: { name: string; node: number }[];
  /** Node of each worker, (workers). */
  nodeOf: Int32Array;
  /** Experts of any layer that fit a worker, all layers together, (workers). */
  slotsOf: Int32Array;
  /** Relative device speed, (workers); its share of the load is proportional. */
  speedOf: Float64Array;
  /** What a row costs from each home node to each other node and back, beside the mean of all pairs, (nodes, nodes); null where all links are alike. */
  linkPrice: Float64Array | null;
}

/** Rows that share a frame's latency, in the price of a link: a decode step of a few dozen sequences sends about as many to a node. */
const rowsPerFrame = 16;

/** Seconds of a row's way there and back, over the mean of all pairs. Links that the topology does not name are `interNode`. */
function linkPrices(topology: Topology): Float64Array | null {
  if (topology.links === null || topology.links.length === 0) return null;
  const nodes = topology.nodes.length;
  const seconds = new Float64Array(nodes * nodes);
  const wayOf = (link: Topology['interNode'], bytes: number) => bytes / link.bandwidth + link.latency / rowsPerFrame;
  const { interNode, dispatchRowBytes, combineRowBytes } = topology;
  for (let from = 0; from < nodes; from++)
    for (let to = 0; to < nodes; to++)
      if (from !== to) seconds[from * nodes + to] = wayOf(interNode, dispatchRowBytes) + wayOf(interNode, combineRowBytes);
  for (const { from, to, ...link } of topology.links) {
    if (from === to) continue;
    seconds[from * nodes + to] += wayOf(link, dispatchRowBytes) - wayOf(interNode, dispatchRowBytes);
    seconds[to * nodes + from] += wayOf(link, combineRowBytes) - wayOf(interNode, combineRowBytes);
  }
  const mean = seconds.reduce((a, b) => a + b, 0) / Math.max(1, nodes * (nodes - 1));
  return seconds.map((s) => s / mean);
}

/** Experts of one worker: 4,096 of each of 4,096 layers. */
const slotsMax = 1 << 24;

/** @throws bad_plan where a count is out of bounds or memory holds no expert */
export function clusterOf(topology: Topology): Cluster {
  const refuse = (message: string, param: string): never => {
    throw new SwitchyardError('bad_plan', `topology: ${message}`, { param });
  };
  if (topology.format !== 'switchyard-topology' || topology.version !== 1)
    refuse('format must be "switchyard-topology" version 1', 'format');
  if (topology.nodes.length < 1 || topology.nodes.length > limits.nodesMax)
    refuse(`${topology.nodes.length} nodes, must be 1 to ${limits.nodesMax}`, 'nodes');
  for (const field of ['expertBytes', 'dispatchRowBytes', 'combineRowBytes'] as const)
    if (!(topology[field] > 0)) refuse(`${field} is ${topology[field]}, must be above 0`, field);
  for (const field of ['intraNode', 'interNode'] as const)
    if (!(topology[field].bandwidth > 0) || !(topology[field].latency >= 0))
      refuse(`${field} has bandwidth ${topology[field].bandwidth} and latency ${topology[field].latency}`, field);
  const workers = topology.nodes.flatMap((node, n) => node.workers.map((worker) => ({ name: worker.name, node: n })));
  if (workers.length < 1 || workers.length > limits.workersMax)
    refuse(`${workers.length} workers, must be 1 to ${limits.workersMax}`, 'workers');
  for (const [n, node] of topology.nodes.entries())
    if (node.workers.length === 0) refuse(`node ${n} (${node.name}) has no workers`, 'nodes');
  for (const link of topology.links ?? [])
    if (!(topology.nodes[link.from] && topology.nodes[link.to]) || !(link.bandwidth > 0) || !(link.latency >= 0))
      refuse(`link ${link.from} to ${link.to}, bandwidth ${link.bandwidth}, latency ${link.latency}`, 'links');
  const flat = topology.nodes.flatMap((node) => node.workers);
  for (const worker of flat)
    if (!(worker.relativeSpeed > 0)) refuse(`relativeSpeed of ${worker.name} is ${worker.relativeSpeed}, must be above 0`, 'relativeSpeed');
  return {
    nodes: topology.nodes.length,
    nodeNames: topology.nodes.map((node) => node.name),
    workers,
    nodeOf: Int32Array.from(workers, (w) => w.node),
    slotsOf: Int32Array.from(flat, (w) => Math.min(slotsMax, Math.floor(w.expertMemoryBytes / topology.expertBytes))),
    speedOf: Float64Array.from(flat, (w) => w.relativeSpeed),
    linkPrice: linkPrices(topology),
  };
}

/** Equal nodes of equal workers whose memory holds `slots` experts in all, spread as evenly as integers allow. */
export function evenCluster(nodes: number, workersPerNode: number, slots: number): Cluster {
  const count = nodes * workersPerNode;
  const workers = Array.from({ length: count }, (_, w) => ({
    name: `n${Math.floor(w / workersPerNode)}w${w % workersPerNode}`,
    node: Math.floor(w / workersPerNode),
  }));
  return {
    nodes,
    nodeNames: Array.from({ length: nodes }, (_, n) => `n${n}`),
    workers,
    nodeOf: Int32Array.from(workers, (w) => w.node),
    slotsOf: Int32Array.from(workers, (_, w) => Math.floor(((w + 1) * slots) / count) - Math.floor((w * slots) / count)),
    speedOf: new Float64Array(count).fill(1),
    linkPrice: null,
  };
}

/**
 * The cluster as searches see it, who name sets of nodes by 32 bits: where there are more nodes, neighbours are taken together, as few as it takes. The workers stay
 * what they are, so a plan for the groups is one for the cluster, and is scored as one. Clusters of few nodes are returned as they are.
 */
export function inNodeGroups(cluster: Cluster): Cluster {
  const { nodes, linkPrice } = cluster;
  if (nodes <= maskNodesMax) return cluster;
  const size = Math.ceil(nodes / maskNodesMax);
  const groups = Math.ceil(nodes / size);
  const groupOf = (node: number) => Math.floor(node / size);
  let price: Float64Array | null = null;
  if (linkPrice !== null) {
    const sums = new Float64Array(groups * groups);
    const pairs = new Float64Array(groups * groups);
    for (let a = 0; a < nodes; a++)
      for (let b = 0; b < nodes; b++) {
        sums[groupOf(a) * groups + groupOf(b)] += linkPrice[a * nodes + b];
        pairs[groupOf(a) * groups + groupOf(b)]++;
      }
    price = sums.map((sum, i) => sum / pairs[i]);
  }
  return {
    ...cluster,
    nodes: groups,
    nodeNames: Array.from({ length: groups }, (_, g) => groupName(cluster.nodeNames.slice(g * size, (g + 1) * size))),
    workers: cluster.workers.map(({ name, node }) => ({ name, node: groupOf(node) })),
    nodeOf: cluster.nodeOf.map(groupOf),
    linkPrice: price,
  };
}

function groupName(names: string[]): string {
  return names.length < 3 ? names.join('+') : `${names[0]}…${names[names.length - 1]}`;
}

/** Experts that fit each node, (nodes). */
export function nodeSlots(cluster: Cluster): Int32Array {
  const slots = new Int32Array(cluster.nodes);
  cluster.slotsOf.forEach((s, w) => {
    slots[cluster.nodeOf[w]] += s;
  });
  return slots;
}

/** The part of the cluster's speed that each node has, (nodes), summing to 1. */
export function nodeSpeedShares(cluster: Cluster): Float64Array {
  const shares = new Float64Array(cluster.nodes);
  cluster.speedOf.forEach((s, w) => {
    shares[cluster.nodeOf[w]] += s;
  });
  const total = shares.reduce((a, b) => a + b, 0);
  return shares.map((s) => s / total);
}

/** The same cluster with no more than `slots` experts in all, taken from every worker in proportion to what it has. */
export function limitSlots(cluster: Cluster, slots: number): Cluster {
  const total = cluster.slotsOf.reduce((a, b) => a + b, 0);
  if (total <= slots) return cluster;
  let before = 0;
  const slotsOf = cluster.slotsOf.map((own) => {
    const from = Math.floor((before * slots) / total);
    before += own;
    return Math.floor((before * slots) / total) - from;
  });
  return { ...cluster, slotsOf };
}
