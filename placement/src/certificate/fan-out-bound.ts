import { setImmediate as nextTurn } from 'node:timers/promises';
import { NO_EXPERT, type RoutingTrace } from '../trace/routing-trace.ts';
import { type FanOutClaim, scale } from './certificate.ts';

/** The fewest co-located pairs of `k` experts on `nodes` nodes: as even a split as can be. */
function pairsMin(k: number, nodes: number): number {
  const low = Math.floor(k / nodes);
  const larger = k - low * nodes;
  return (larger * ((low + 1) * low)) / 2 + ((nodes - larger) * low * (low - 1)) / 2;
}

/** Nodes that a token of k experts with `pairs` co-located pairs needs, convex envelope; `lambdaAt` is its slope averaged over one pair to either side. */
function nodesNeeded(k: number, nodes: number, pairs: number): number {
  const p = Math.max(0, pairs);
  let least = 1;
  for (let d = 1; d < Math.min(k, nodes); d++) {
    const from = pairsMin(k, d + 1);
    const to = pairsMin(k, d);
    if (to > from) least = Math.max(least, d + (to - p) / (to - from));
  }
  return least;
}

function lambdaAt(k: number, nodes: number, pairs: number): number {
  const slope = nodesNeeded(k, nodes, pairs - 0.5) - nodesNeeded(k, nodes, pairs + 0.5);
  return Math.round(slope * scale) / scale;
}

/** How hard `proveFanOut` tries: rounds for each layer, and what may cut them short. */
export interface ProofEffort {
  rounds: number;
  signal?: AbortSignal | undefined;
}

/**
 * Finds the multipliers of a FanOutClaim by fictitious play: tokens answer a running mean of co-locations with their lambda, co-locations answer the lambdas with a
 * heaviest feasible choice of pairs. Then the prices of degrees and counts are tuned. Whatever it finds is valid; rounds only tighten it, so one that is aborted
 * gives each layer that is left one round and resolves soon.
 */
export async function proveFanOut(
  trace: RoutingTrace,
  nodes: number,
  nodeExperts: readonly (readonly number[])[],
  effort: ProofEffort = { rounds: 24 },
): Promise<{ layers: FanOutClaim['layers']; bound: number }> {
  let total = 0;
  const layers: FanOutClaim['layers'] = [];
  for (let layer = 0; layer < trace.moeLayers.length; layer++) {
    const { remoteNodes, proof } = await proveLayer(trace, layer, nodes, nodeExperts[layer], effort);
    total += remoteNodes;
    layers.push(proof);
  }
  return { layers, bound: total / (trace.tokens * layers.length) };
}

/** @returns the remote nodes that the layer's tokens need at least, all together, and what proves it */
async function proveLayer(
  trace: RoutingTrace,
  layer: number,
  nodes: number,
  sizes: readonly number[],
  { rounds, signal }: ProofEffort,
): Promise<{ remoteNodes: number; proof: FanOutClaim['layers'][number] }> {
  const { experts } = trace;
  const degreeMax = degreeLimit(experts, sizes);
  const pairsMax = pairLimit(sizes);
  let reference: Float64Array<ArrayBufferLike> = new Float64Array(experts * experts).fill(
    Math.min(1, pairsMax / ((experts * (experts - 1)) / 2)),
  );
  let best = { bound: -Infinity, quantised: [] as number[], price: [] as number[], countPrice: 0 };
  for (let round = 0; ; round++) {
    // A round over many tokens takes long enough for Ctrl-C to come in the midst of it.
    await nextTurn();
    const quantised = reference.map((m) => Math.round(m * 255));
    const { weight, constant } = answer(trace, layer, quantised, nodes);
    const { price, countPrice, value } = pairPrices(weight, experts, degreeMax, pairsMax);
    const bound = constant - value;
    if (bound > best.bound) best = { bound, quantised: Array.from(quantised), price: Array.from(price), countPrice };
    if (round + 1 >= rounds || signal?.aborted === true) break;
    const chosen = heaviestPairs(weight, experts, degreeMax, pairsMax);
    const share = 1 / (round + 2);
    reference = reference.map((m, i) => m + share * (chosen[i] - m));
  }
  const triangle = new Uint8Array((experts * (experts - 1)) / 2);
  let at = 0;
  for (let e = 0; e < experts; e++) for (let f = e + 1; f < experts; f++) triangle[at++] = best.quantised[e * experts + f];
  return {
    // A token needs at least one node, so zero remote nodes can always be claimed.
    remoteNodes: Math.max(0, best.bound - trace.tokens),
    proof: {
      reference: Buffer.from(triangle).toString('base64'),
      degreePrice: best.price.map((p) => Math.round(p * scale)),
      countPrice: Math.round(best.countPrice * scale),
    },
  };
}

/** Experts that one expert may be co-located with: the rest of every node that it can be on, given that all others need a place too. `sizes` largest first. */
function degreeLimit(experts: number, sizes: readonly number[]): number {
  const copies = Math.max(1, 1 + sizes.reduce((a, b) => a + b, 0) - experts);
  return Math.min(
    experts - 1,
    sizes.slice(0, copies).reduce((sum, s) => sum + Math.max(0, s - 1), 0),
  );
}

/** Co-located pairs of a layer at most. */
function pairLimit(sizes: readonly number[]): number {
  return sizes.reduce((sum, s) => sum + (s * (s - 1)) / 2, 0);
}

/** Every token's lambda at the reference, gathered into pair weights, and the sum of the tokens' constants. */
function answer(
  trace: RoutingTrace,
  layer: number,
  reference: ArrayLike<number>,
  nodes: number,
): { weight: Float64Array; constant: number } {
  const { experts, topK, tokens } = trace;
  const count = trace.moeLayers.length;
  const weight = new Float64Array(experts * experts);
  let constant = 0;
  const known = new Map<number, { lambda: number; floor: number }>();
  const chosen = new Int32Array(topK);
  for (let t = 0; t < tokens; t++) {
    let k = 0;
    for (let i = 0; i < topK; i++) {
      const e = trace.ids[(t * count + layer) * topK + i];
      if (e !== NO_EXPERT) chosen[k++] = e;
    }
    if (k === 0) {
      constant += 1;
      continue;
    }
    let sum = 0;
    for (let i = 0; i < k; i++)
      for (let j = 0; j < i; j++) sum += reference[Math.min(chosen[i], chosen[j]) * experts + Math.max(chosen[i], chosen[j])];
    const key = sum * 64 + k;
    let own = known.get(key);
    if (own === undefined) {
      const lambda = lambdaAt(k, nodes, sum / 255);
      let floor = Infinity;
      for (let d = 1; d <= Math.min(k, nodes); d++) floor = Math.min(floor, d + lambda * pairsMin(k, d));
      own = { lambda, floor };
      known.set(key, own);
    }
    constant += own.floor;
    if (own.lambda > 0)
      for (let i = 0; i < k; i++)
        for (let j = 0; j < i; j++) weight[Math.min(chosen[i], chosen[j]) * experts + Math.max(chosen[i], chosen[j])] += own.lambda;
  }
  return { weight, constant };
}

/** Duals of the heaviest pairs under degree and count limits, rounded to the certificate's grid. */
function pairPrices(
  weight: Float64Array,
  experts: number,
  degreeMax: number,
  pairsMax: number,
): { price: Float64Array; countPrice: number; value: number } {
  const price = new Float64Array(experts);
  let countPrice = 0;
  const all = new Float64Array((experts * (experts - 1)) / 2);
  const own = new Float64Array(experts - 1);
  const left = (e: number, f: number) => weight[Math.min(e, f) * experts + Math.max(e, f)] - price[e] - price[f] - countPrice;
  // The k-th largest of sorted values, 0 where all are allowed: the price at which exactly k pairs remain worth choosing.
  const kth = (values: Float64Array, k: number) => (k < values.length ? Math.max(0, values.sort()[values.length - Math.max(1, k)]) : 0);
  // Exact line searches, one price at a time, from both ends.
  for (let round = 0; round < 6; round++) {
    let at = 0;
    for (let e = 0; e < experts; e++) for (let f = e + 1; f < experts; f++) all[at++] = left(e, f) + countPrice;
    countPrice = kth(all, pairsMax);
    for (let e = 0; e < experts; e++) {
      for (let f = 0; f < experts; f++) if (f !== e) own[f < e ? f : f - 1] = left(e, f) + price[e];
      price[e] = kth(own, degreeMax);
      if (round < 5) price[e] *= 0.9; // leave room for the others: equal prices everywhere would be a corner
    }
  }
  for (let e = 0; e < experts; e++) price[e] = Math.round(price[e] * scale) / scale;
  countPrice = Math.round(countPrice * scale) / scale;
  let value = countPrice * pairsMax;
  for (let e = 0; e < experts; e++) {
    value += price[e] * degreeMax;
    for (let f = e + 1; f < experts; f++) value += Math.max(0, left(e, f));
  }
  return { price, countPrice, value };
}

/** 1 for each of the heaviest pairs under degree and count limits, taken one by one, for the next answer, (experts, experts). */
function heaviestPairs(weight: Float64Array, experts: number, degreeMax: number, pairsMax: number): Float64Array {
  const chosen = new Float64Array(experts * experts);
  const order = new Uint32Array((experts * (experts - 1)) / 2);
  let at = 0;
  for (let e = 0; e < experts; e++) for (let f = e + 1; f < experts; f++) order[at++] = e * experts + f;
  order.sort((a, b) => weight[b] - weight[a] || a - b);
  const degree = new Int32Array(experts);
  let taken = 0;
  for (const pair of order) {
    if (taken >= pairsMax) break;
    const [e, f] = [Math.floor(pair / experts), pair % experts];
    if (degree[e] >= degreeMax || degree[f] >= degreeMax) continue;
    chosen[pair] = 1;
    degree[e]++;
    degree[f]++;
    taken++;
  }
  return chosen;
}
