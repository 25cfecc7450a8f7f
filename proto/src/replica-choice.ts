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
 * @param load     (row, expert) pairs queued per worker, which is what its experts compute; read only
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
  for (let i = 0, bit = 1; i < topK; i++) {
    if (out[i] >= 0) continue;
    // The first of the cover that holds it.
    let c = 0;
    while ((bitsOf[cover[c]] & bit) === 0) c++;
    out[i] = leastLoadedOn(replicas[experts[i]], candidate[cover[c]], nodeOf, load, -1);
    bit <<= 1;
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
 * Working memory of one call, kept between calls because the planner makes millions of them. Only nodes that hold an uncovered expert matter: they are numbered as
 * candidates, so that nothing here is as long as the cluster is wide. Sets of experts are one word of bits (`limits.topKMax` is 32), covers are lists of candidates.
 */
const candidate = new Int32Array(limits.nodesMax); // nodes, ascending
const bitsOf = new Int32Array(limits.nodesMax); // candidate -> bits of the uncovered experts it holds
let candidates = 0;
const bitsOfNode = new Int32Array(limits.nodesMax); // the same by node; zero between calls
let all = 0; // bits of all uncovered experts
let bitsMax = 0; // most bits of one candidate
const path = new Int32Array(limits.topKMax); // the cover that is being tried
const trial = new Int32Array(limits.topKMax); // the same, ascending
const cover = new Int32Array(limits.topKMax); // the best cover so far, ascending
let coverSize = 0; // 0: none

/** From here on candidates are compared with each other first: fewer are searched sooner than compared. */
const candidatesCompared = 32;

/** Leaves the smallest cover in `cover`: exact, by iterative deepening on its size. */
function findCover(
  experts: ArrayLike<number>,
  topK: number,
  replicas: readonly (readonly number[])[],
  nodeOf: ArrayLike<number>,
  chosen: Int32Array,
  uncovered: number,
): void {
  candidates = 0;
  let bit = 1;
  for (let i = 0; i < topK; i++) {
    if (chosen[i] >= 0) continue;
    for (const w of replicas[experts[i]]) {
      const node = nodeOf[w];
      if (bitsOfNode[node] === 0) insertCandidate(node);
      bitsOfNode[node] |= bit;
    }
    bit <<= 1;
  }
  all = (-1 >>> (32 - uncovered)) | 0; // All of 32 bits are -1, as what is reachable is.
  bitsMax = 0;
  let reachable = 0;
  for (let c = 0; c < candidates; c++) {
    const bits = bitsOfNode[candidate[c]];
    bitsOfNode[candidate[c]] = 0;
    bitsOf[c] = bits;
    bitsMax = Math.max(bitsMax, bitCount(bits));
    reachable |= bits;
  }
  if (reachable !== all) throw new Error('chooseReplicas: an expert has no replica in the plan');
  if (candidates > candidatesCompared) dropNeedless();
  coverSize = 0;
  for (let size = Math.ceil(uncovered / bitsMax); coverSize === 0; size++) extendCover(0, 0, size);
}

/** A candidate whose experts a lower one holds too is in no cover that is smallest and first: the lower one would do in its place. */
function dropNeedless(): void {
  let kept = 0;
  for (let c = 0; c < candidates; c++) {
    let needed = true;
    for (let lower = 0; lower < kept && needed; lower++) needed = (bitsOf[c] & ~bitsOf[lower]) !== 0;
    if (!needed) continue;
    candidate[kept] = candidate[c];
    bitsOf[kept++] = bitsOf[c];
  }
  candidates = kept;
}

/**
 * Tries covers of `size` candidates, of which `path` has `taken`. One of the holders of the first uncovered expert must be in it, so the branching is that expert's
 * number of nodes; of the last candidates that would complete a path the first is the best. So every smallest cover that may come first is reached, and it is kept.
 */
function extendCover(covered: number, taken: number, size: number): void {
  const missing = all & ~covered;
  if (taken + 1 === size) {
    for (let c = 0; c < candidates; c++) {
      if ((missing & ~bitsOf[c]) !== 0) continue;
      path[taken] = c;
      keepIfFirst(size);
      return;
    }
    return;
  }
  if (bitCount(missing) > (size - taken) * bitsMax) return;
  const first = missing & -missing;
  for (let c = 0; c < candidates; c++) {
    if ((bitsOf[c] & first) === 0) continue;
    path[taken] = c;
    extendCover(covered | bitsOf[c], taken + 1, size);
  }
}

/** Of covers of equal size, the one with the lowest node that is not in both comes first. */
function keepIfFirst(size: number): void {
  for (let i = 0; i < size; i++) {
    let at = i;
    for (; at > 0 && trial[at - 1] > path[i]; at--) trial[at] = trial[at - 1];
    trial[at] = path[i];
  }
  if (coverSize > 0) {
    let i = 0;
    while (i < size && trial[i] === cover[i]) i++;
    if (i === size || trial[i] > cover[i]) return;
  }
  for (let i = 0; i < size; i++) cover[i] = trial[i];
  coverSize = size;
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
