import { documentFields, parseTopology, type Topology } from '@switchyard/proto';
import { maskNodesMax } from './node-set.ts';

const { refusal } = documentFields('topology', 'bad_plan');

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
  const nodes = topology.nodes.length;
  if (topology.links === null || topology.links.length === 0 || nodes === 1) return null;
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

/** Speeds are relative, and links are compared: what is further apart than any hardware leaves doubles no digits to add up. */
const relativeSpeedRange = [1e-6, 1e6] as const;
const bytesRange = [1, 1e15] as const;
const bandwidthRange = [1, 1e18] as const;
const latencyMax = 1e6;

/**
 * @param given checked as a file is, for programs write topologies too
 * @throws bad_plan naming the field, its value and its limit
 */
export function clusterOf(given: Topology): Cluster {
  const topology = parseTopology(given);
  checkRanges(topology);
  const flat = topology.nodes.flatMap((node) => node.workers);
  const workers = topology.nodes.flatMap((node, n) => node.workers.map(({ name }) => ({ name, node: n })));
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

/** What no cluster has, though it may be written: see the ranges. A link that is named twice would count twice. */
function checkRanges(topology: Topology): void {
  const within = (field: string, value: number, [min, max]: readonly [number, number]) => {
    if (!(value >= min && value <= max)) throw refusal(field, value, `a number in ${min}..${max}`);
  };
  for (const field of ['expertBytes', 'dispatchRowBytes', 'combineRowBytes'] as const) within(field, topology[field], bytesRange);
  topology.nodes.forEach(({ workers }, n) => {
    workers.forEach(({ relativeSpeed }, w) => {
      within(`nodes[${n}].workers[${w}].relativeSpeed`, relativeSpeed, relativeSpeedRange);
    });
  });
  const checkLink = (field: string, link: Topology['interNode']) => {
    within(`${field}.bandwidth`, link.bandwidth, bandwidthRange);
    within(`${field}.latency`, link.latency, [0, latencyMax]);
  };
  checkLink('interNode', topology.interNode);
  checkLink('intraNode', topology.intraNode);
  const named = new Set<string>();
  topology.links?.forEach((link, i) => {
    checkLink(`links[${i}]`, link);
    const way = `${link.from} to ${link.to}`;
    if (named.has(way)) throw refusal(`links[${i}]`, way, 'named once');
    named.add(way);
  });
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

/** A limited cluster in which each worker has at least room for what it holds, as far as its memory goes. A limit rounds, and what fits is not to leave for that. */
export function withRoomFor(held: ArrayLike<number>, limited: Cluster, whole: Cluster): Cluster {
  const slotsOf = limited.slotsOf.map((own, w) => Math.min(whole.slotsOf[w], Math.max(own, held[w])));
  return { ...limited, slotsOf };
}

/** The same cluster with at most `copies` experts on a worker: one copy of everything is all that it can use, and memory beyond says nothing of its part. */
export function limitWorkers(cluster: Cluster, copies: number): Cluster {
  return { ...cluster, slotsOf: cluster.slotsOf.map((own) => Math.min(own, copies)) };
}
