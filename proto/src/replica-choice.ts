import { limits } from './limits.ts';

/**
 * Which replicas serve one token: home first, then the smallest set of nodes that covers its other experts, then the least loaded replica inside each node.
 * Pure, shared by the worker that routes and the planner that predicts, so that a plan is scored by the rule that will run it.
 * Ties: the lexicographically smallest node set (lower node numbers first), then the lower worker number. Loads are counters that may be stale: they change
 * where a row is computed, never what is computed.
 *
 * @param experts  the token's expert ids, (topK)
 * @param replicas workers that hold each expert, ascending, `replicas[e]`
 * @param nodeOf   node of each worker
 * @param home     the token's home worker
 * @param load     rows queued per worker; read only
 * @param out      chosen worker per entry of `experts`, (topK)
 * @throws Error when an expert has no replica; plans are checked, so this is a bug
 */
export function chooseReplicas(
  experts: ArrayLike<number>,
  topK: number,
  replicas: readonly (readonly number[])[],
  nodeOf: ArrayLike<number>,
  home: number,
  load: ArrayLike<number>,
  out: Int32Array,
): void {
  const homeNode = nodeOf[home];
  let uncovered = 0;
  for (let i = 0; i < topK; i++) {
    out[i] = leastLoadedOn(replicas[experts[i]], homeNode, nodeOf, load, home);
    if (out[i] < 0) uncovered++;
  }
  if (uncovered === 0) return;
  findCover(experts, topK, replicas, nodeOf, out, uncovered);
  for (let i = 0; i < topK; i++) {
    // Ascending, as the set is ordered.
    for (let c = 0; out[i] < 0 && c < candidates; c++) {
      const node = candidate[c];
      if (inBest(node)) out[i] = leastLoadedOn(replicas[experts[i]], node, nodeOf, load, -1);
    }
  }
}

/** The home worker itself if it holds the expert, else the least loaded holder on `node`, else -1. */
function leastLoadedOn(holders: readonly number[], node: number, nodeOf: ArrayLike<number>, load: ArrayLike<number>, home: number): number {
  let best = -1;
  for (const w of holders) {
    if (w === home) return w;
    if (nodeOf[w] === node && (best < 0 || load[w] < load[best])) best = w;
  }
  return best;
}

/**
 * Working memory of one call, kept between calls because the planner makes millions of them. Sets of nodes are two words of bits (`limits.nodesMax` is 64), sets
 * of experts one (`limits.topKMax` is 32).
 */
const candidate = new Int32Array(limits.nodesMax); // nodes that hold an uncovered expert, ascending
let candidates = 0;
const maskOf = new Int32Array(limits.nodesMax); // node -> bits of the uncovered experts it holds
let all = 0; // bits of all uncovered experts
let bitsMax = 0; // most bits of one node
let found = false;
let bestLow = 0;
let bestHigh = 0;

/** Leaves the smallest cover in best*: exact, by iterative deepening on its size. */
function findCover(
  experts: ArrayLike<number>,
  topK: number,
  replicas: readonly (readonly number[])[],
  nodeOf: ArrayLike<number>,
  chosen: Int32Array,
  uncovered: number,
): void {
  candidates = 0;
  maskOf.fill(0);
  let bit = 1;
  for (let i = 0; i < topK; i++) {
    if (chosen[i] >= 0) continue;
    for (const w of replicas[experts[i]]) {
      const node = nodeOf[w];
      if (maskOf[node] === 0) insertCandidate(node);
      maskOf[node] |= bit;
    }
    bit <<= 1;
  }
  all = uncovered === 32 ? -1 : (1 << uncovered) - 1;
  bitsMax = 0;
  let reachable = 0;
  for (let c = 0; c < candidates; c++) {
    bitsMax = Math.max(bitsMax, bitCount(maskOf[candidate[c]]));
    reachable |= maskOf[candidate[c]];
  }
  if (reachable !== all) throw new Error('chooseReplicas: an expert has no replica in the plan');
  found = false;
  for (let size = Math.ceil(uncovered / bitsMax); !found; size++) extendCover(0, size, 0, 0);
}

/**
 * Tries every cover of at most `left` more nodes. One of the holders of the first uncovered expert must be in it, so the branching is that expert's number of
 * nodes. Every smallest cover is reached; the lexicographically smallest of them is kept.
 */
function extendCover(covered: number, left: number, low: number, high: number): void {
  if (covered === all) {
    if (!found || precedes(low, high)) {
      found = true;
      bestLow = low;
      bestHigh = high;
    }
    return;
  }
  const missing = all & ~covered;
  if (bitCount(missing) > left * bitsMax) return;
  const first = missing & -missing;
  for (let c = 0; c < candidates; c++) {
    const node = candidate[c];
    if ((maskOf[node] & first) === 0) continue;
    if (node < 32) extendCover(covered | maskOf[node], left - 1, low | (1 << node), high);
    else extendCover(covered | maskOf[node], left - 1, low, high | (1 << (node - 32)));
  }
}

/** Of two sets of equal size, the one with the lowest node that is not in both comes first. */
function precedes(low: number, high: number): boolean {
  const lowDiffers = low ^ bestLow;
  if (lowDiffers !== 0) return (lowDiffers & -lowDiffers & low) !== 0;
  const highDiffers = high ^ bestHigh;
  return (highDiffers & -highDiffers & high) !== 0;
}

function inBest(node: number): boolean {
  return node < 32 ? ((bestLow >>> node) & 1) === 1 : ((bestHigh >>> (node - 32)) & 1) === 1;
}

function insertCandidate(node: number): void {
  let at = candidates++;
  for (; at > 0 && candidate[at - 1] > node; at--) candidate[at] = candidate[at - 1];
  candidate[at] = node;
}

function bitCount(bits: number): number {
  let n = bits - ((bits >>> 1) & 0x55555555);
  n = (n & 0x33333333) + ((n >>> 2) & 0x33333333);
  return Math.imul((n + (n >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}
