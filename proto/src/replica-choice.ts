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
    const holders = replicas[experts[i]];
    out[i] = leastLoadedOn(holders, homeNode, nodeOf, load, home);
    if (out[i] < 0) uncovered++;
  }
  if (uncovered === 0) return;
  for (const node of smallestNodeCover(experts, topK, replicas, nodeOf, out, uncovered)) {
    for (let i = 0; i < topK; i++) if (out[i] < 0) out[i] = leastLoadedOn(replicas[experts[i]], node, nodeOf, load, -1);
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

/** Exact minimum cover by iterative deepening over the few candidate nodes: topK <= 16 experts, so depth and branching stay tiny. */
function smallestNodeCover(
  experts: ArrayLike<number>,
  topK: number,
  replicas: readonly (readonly number[])[],
  nodeOf: ArrayLike<number>,
  chosen: Int32Array,
  uncovered: number,
): number[] {
  const masks = new Map<number, number>(); // node -> bits of the uncovered experts it holds
  let bit = 0;
  for (let i = 0; i < topK; i++) {
    if (chosen[i] >= 0) continue;
    for (const w of replicas[experts[i]]) masks.set(nodeOf[w], (masks.get(nodeOf[w]) ?? 0) | (1 << bit));
    bit++;
  }
  const all = (1 << uncovered) - 1;
  const nodes = [...masks.keys()].sort((a, b) => a - b);
  const picked: number[] = [];
  const search = (from: number, covered: number, left: number): boolean => {
    if (covered === all) return true;
    if (left === 0) return false;
    for (let i = from; i < nodes.length; i++) {
      const mask = masks.get(nodes[i])!;
      if ((mask & ~covered) === 0) continue;
      picked.push(nodes[i]);
      if (search(i + 1, covered | mask, left - 1)) return true;
      picked.pop();
    }
    return false;
  };
  for (let size = 1; size <= uncovered; size++) if (search(0, 0, size)) return picked;
  throw new Error('chooseReplicas: an expert has no replica in the plan');
}
