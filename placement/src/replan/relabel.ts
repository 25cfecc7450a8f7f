import type { Plan } from '@switchyard/proto';
import type { Cluster } from '../cluster/cluster.ts';
import { assignToBins } from '../solve/transportation.ts';
import { checkSameShape, replicaCount } from './moves.ts';

/**
 * Renames the workers of `target` so that least has to move from `current`, without changing what the plan is worth: workers of one node may trade places if they are
 * equal in memory and speed, and so may whole nodes whose links to all others are equal too. Exact: an assignment of workers for each pair of nodes, then one of nodes
 * over those.
 *
 * @param cluster with its memory as it is: a limit on its replicas (`limitSlots`) rounds equal workers to unequal ones, which then may not trade places
 *
 * Homes of running sequences are not moved; those of new ones follow the nodes' new names, so the affinity table must be learned (or renamed) after this.
 */
export function relabelToMatch(target: Plan, current: Plan, cluster: Cluster): { plan: Plan; workerOf: Int32Array } {
  checkSameShape(target, current);
  const workers = cluster.workers.length;
  // Experts that stay if target's worker a becomes worker b.
  const kept = new Float64Array(workers * workers);
  target.replicas.forEach((layer, l) => {
    layer.forEach((own, e) => {
      for (const a of own) for (const b of current.replicas[l][e]) kept[a * workers + b]++;
    });
  });
  const inNode = Array.from({ length: cluster.nodes }, (_, n) => cluster.workers.map((_, w) => w).filter((w) => cluster.nodeOf[w] === n));
  const alike = (a: number, b: number) => cluster.slotsOf[a] === cluster.slotsOf[b] && cluster.speedOf[a] === cluster.speedOf[b];
  // More than all that could stay, and no more: beside it the costs of what may be have to keep their digits.
  const forbidden = 1 + replicaCount(target);
  const match = (from: number[], to: number[]): { pairs: [number, number][]; kept: number } | null => {
    const cost = Float64Array.from({ length: from.length * to.length }, (_, i) => {
      const a = from[Math.floor(i / to.length)];
      const b = to[i % to.length];
      return alike(a, b) ? -kept[a * workers + b] : forbidden;
    });
    const chosen = assignToBins(cost, new Int32Array(to.length).fill(1));
    const pairs = from.map((a, i): [number, number] => [a, to[chosen[i]]]);
    return pairs.every(([a, b]) => alike(a, b)) ? { pairs, kept: pairs.reduce((sum, [a, b]) => sum + kept[a * workers + b], 0) } : null;
  };
  const between = inNode.map((from, a) =>
    inNode.map((to, b) => (from.length === to.length && linksAgree(cluster, a, b) ? match(from, to) : null)),
  );
  const cost = Float64Array.from(between.flat(), (m) => (m === null ? forbidden : -m.kept));
  const nodeFor = assignToBins(cost, new Int32Array(cluster.nodes).fill(1));
  const workerOf = new Int32Array(workers);
  nodeFor.forEach((to, from) => {
    for (const [a, b] of between[from][to]!.pairs) workerOf[a] = b;
  });
  const replicas = target.replicas.map((layer) => layer.map((own) => own.map((w) => workerOf[w]).sort((a, b) => a - b)));
  return { plan: { ...target, replicas }, workerOf };
}

/** True if two nodes can trade places and every link between nodes still costs what it did. Prices of equal links differ by rounding. */
function linksAgree({ linkPrice, nodes }: Cluster, a: number, b: number): boolean {
  if (linkPrice === null || a === b) return true;
  const same = (x: number, y: number) => Math.abs(x - y) <= 1e-9 * Math.max(1, x, y);
  const to = (from: number, at: number) => linkPrice[from * nodes + at];
  for (let c = 0; c < nodes; c++) if (c !== a && c !== b && !(same(to(a, c), to(b, c)) && same(to(c, a), to(c, b)))) return false;
  return same(to(a, b), to(b, a));
}
