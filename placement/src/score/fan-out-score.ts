import { chooseReplicas } from '@switchyard/proto';
import type { Cluster } from '../cluster/cluster.ts';
import { holderMasks, maskNodesMax, NodeCover } from '../cluster/node-set.ts';
import { runThrough, type Steps } from '../steps.ts';
import { NO_EXPERT, type RoutingTrace } from '../trace/routing-trace.ts';

export interface FanOutScore {
  tokens: number;
  /** Remote nodes that a token visits per MoE layer: `r`, the mean over tokens and layers. */
  remoteNodes: number;
  /** Share of (token, expert) visits that the home node serves; 1 where there are none. */
  homeShare: number;
  /** Rows served, (layers, workers). */
  rows: Float64Array;
  /** Peak over mean of rows per worker, divided by speed, averaged over layers. */
  peakMean: number;
  /** The same over nodes. */
  nodePeakMean: number;
  /** Peak over mean per layer and step of `stepTokens` tokens, averaged over both. */
  stepPeakMean: number;
  /** Rows of each (home node, serving node) pair per token, summed over layers: what crosses each link one way, (nodes, nodes). */
  linkRows: Float64Array;
  /** Mean over tokens of the layers in which the token leaves its node at all. */
  remoteLayers: number;
  /** Largest number of tokens of one home node over the mean. */
  homePeakMean: number;
}

/**
 * Scores a placement by the router's real rule, token by token: the home first, then the smallest set of nodes, then the least loaded replica, where loads are the
 * rows each worker has served so far in that layer. Equal to calling `chooseReplicas` for each token and layer (a test compares the two).
 *
 * @param replicas workers that hold each expert, ascending, `replicas[layer][expert]`
 * @param homes    home worker of each sequence, (sequences)
 * @param stepTokens tokens of one batch, for `stepPeakMean`; sequences are interleaved as a running batch would
 */
export function scoreFanOut(
  trace: RoutingTrace,
  replicas: readonly (readonly (readonly number[])[])[],
  cluster: Cluster,
  homes: Int32Array,
  stepTokens = 64,
): FanOutScore {
  return runThrough(scoreFanOutSteps(trace, replicas, cluster, homes, stepTokens));
}

/** The same, layer by layer. */
export function* scoreFanOutSteps(
  trace: RoutingTrace,
  replicas: readonly (readonly (readonly number[])[])[],
  cluster: Cluster,
  homes: Int32Array,
  stepTokens = 64,
): Steps<FanOutScore> {
  const layers = trace.moeLayers.length;
  const { topK } = trace;
  const workers = cluster.workers.length;
  const { nodeOf, nodes, speedOf } = cluster;
  const order = batchOrder(trace, stepTokens);
  const rows = new Float64Array(layers * workers);
  const linkRows = new Float64Array(nodes * nodes);
  const remoteLayersOfToken = new Int32Array(trace.tokens);
  let visits = 0;
  let served = 0;
  let servedAtHome = 0;
  let stepRatioSum = 0;
  let stepCount = 0;
  const experts = new Int32Array(topK);
  const out = new Int32Array(topK);
  const stepRows = new Float64Array(workers);
  const visitedBy = new Int32Array(nodes); // the last token that visited the node
  for (let l = 0; l < layers; l++) {
    const choose = layerRule(replicas[l], cluster);
    const load = rows.subarray(l * workers, (l + 1) * workers);
    let inStep = 0;
    stepRows.fill(0);
    visitedBy.fill(-1);
    for (let i = 0; i < trace.tokens; i++) {
      const t = order[i];
      const base = (t * layers + l) * topK;
      let count = 0;
      for (let k = 0; k < topK; k++) if (trace.ids[base + k] !== NO_EXPERT) experts[count++] = trace.ids[base + k];
      const home = homes[trace.sequenceOf[t]];
      choose(experts, count, home, load, out);
      const homeNode = nodeOf[home];
      let remote = 0;
      for (let k = 0; k < count; k++) {
        const worker = out[k];
        load[worker]++;
        stepRows[worker]++;
        served++;
        const node = nodeOf[worker];
        if (node === homeNode) {
          servedAtHome++;
          continue;
        }
        if (visitedBy[node] === t) continue;
        visitedBy[node] = t;
        linkRows[homeNode * nodes + node]++;
        remote++;
      }
      visits += remote;
      if (remote > 0) remoteLayersOfToken[t]++;
      if (++inStep === stepTokens || i === trace.tokens - 1) {
        // What is left over at the end is no whole step, unless it is all there is.
        if (inStep === stepTokens || trace.tokens < stepTokens) {
          stepRatioSum += peakOverMean(stepRows, speedOf);
          stepCount++;
        }
        stepRows.fill(0);
        inStep = 0;
      }
    }
    yield;
  }
  const homeTokens = new Float64Array(nodes);
  for (let t = 0; t < trace.tokens; t++) homeTokens[nodeOf[homes[trace.sequenceOf[t]]]]++;
  const nodeSpeed = new Float64Array(nodes);
  speedOf.forEach((s, w) => {
    nodeSpeed[nodeOf[w]] += s;
  });
  let peakSum = 0;
  let nodePeakSum = 0;
  const nodeRows = new Float64Array(nodes);
  for (let l = 0; l < layers; l++) {
    const load = rows.subarray(l * workers, (l + 1) * workers);
    peakSum += peakOverMean(load, speedOf);
    nodeRows.fill(0);
    load.forEach((r, w) => {
      nodeRows[nodeOf[w]] += r;
    });
    nodePeakSum += peakOverMean(nodeRows, nodeSpeed);
  }
  return {
    tokens: trace.tokens,
    remoteNodes: visits / (trace.tokens * layers),
    homeShare: served === 0 ? 1 : servedAtHome / served,
    rows,
    peakMean: peakSum / layers,
    nodePeakMean: nodePeakSum / layers,
    stepPeakMean: stepRatioSum / stepCount,
    linkRows: linkRows.map((n) => n / trace.tokens),
    remoteLayers: remoteLayersOfToken.reduce((a, b) => a + b, 0) / trace.tokens,
    homePeakMean: peakOverMean(homeTokens, nodeSpeed),
  };
}

/** max(load/speed) over mean: 1 is perfect. With no load, 1. */
export function peakOverMean(load: ArrayLike<number>, speed: ArrayLike<number>): number {
  let total = 0;
  let totalSpeed = 0;
  let peak = 0;
  for (let w = 0; w < load.length; w++) {
    total += load[w];
    totalSpeed += speed[w];
    peak = Math.max(peak, load[w] / speed[w]);
  }
  return total === 0 ? 1 : (peak * totalSpeed) / total;
}

type LayerRule = (experts: Int32Array, count: number, home: number, load: ArrayLike<number>, out: Int32Array) => void;

/** The rule for one layer, with the node masks worked out once. Clusters too wide for a mask run the rule itself. */
export function layerRule(replicas: readonly (readonly number[])[], cluster: Cluster): LayerRule {
  const { nodes, nodeOf } = cluster;
  if (nodes > maskNodesMax) return (experts, count, home, load, out) => chooseReplicas(experts, count, replicas, nodeOf, home, load, out);
  const maskOf = holderMasks(replicas, nodeOf);
  // Holders of each expert on each node, ascending: holders[start[e * nodes + n]..start[e * nodes + n + 1]).
  const start = new Int32Array(replicas.length * nodes + 1);
  replicas.forEach((own, e) => {
    for (const w of own) start[e * nodes + nodeOf[w] + 1]++;
  });
  for (let i = 1; i < start.length; i++) start[i] += start[i - 1];
  const holders = new Int32Array(start[start.length - 1]);
  const at = start.slice();
  replicas.forEach((own, e) => {
    for (const w of own) holders[at[e * nodes + nodeOf[w]]++] = w;
  });
  const cover = new NodeCover();
  const leastLoaded = (e: number, node: number, home: number, load: ArrayLike<number>): number => {
    const end = start[e * nodes + node + 1];
    let best = holders[start[e * nodes + node]];
    for (let i = start[e * nodes + node]; i < end; i++) {
      const w = holders[i];
      if (w === home) return w;
      if (load[w] < load[best]) best = w;
    }
    return best;
  };
  return (experts, count, home, load, out) => {
    const homeNode = nodeOf[home];
    const homeBit = 1 << homeNode;
    let uncovered = 0;
    for (let i = 0; i < count; i++) {
      const mask = maskOf[experts[i]];
      if ((mask & homeBit) !== 0) out[i] = leastLoaded(experts[i], homeNode, home, load);
      else {
        out[i] = -1;
        cover.masks[uncovered++] = mask;
      }
    }
    if (uncovered === 0) return;
    const chosen = cover.solveFirst(uncovered);
    for (let i = 0; i < count; i++) {
      if (out[i] >= 0) continue;
      const holding = maskOf[experts[i]] & chosen;
      const node = 31 - Math.clz32(holding & -holding);
      out[i] = leastLoaded(experts[i], node, -1, load);
    }
  };
}

/** Tokens in the order of a running batch: `width` sequences advance together, and the next waiting one takes the place of one that ends. */
export function batchOrder(trace: RoutingTrace, width: number): Uint32Array {
  const start = new Uint32Array(trace.sequences.length + 1);
  trace.sequences.forEach((s, i) => {
    start[i + 1] = start[i] + s.tokens;
  });
  const order = new Uint32Array(trace.tokens);
  let waiting = 0;
  let at = 0;
  const running: { next: number; end: number }[] = [];
  const admit = () => {
    while (running.length < width && waiting < trace.sequences.length) {
      running.push({ next: start[waiting], end: start[waiting + 1] });
      waiting++;
    }
  };
  for (admit(); running.length > 0; admit()) {
    for (let i = 0; i < running.length; i++) {
      order[at++] = running[i].next++;
      if (running[i].next === running[i].end) running.splice(i--, 1);
    }
  }
  return order;
}
