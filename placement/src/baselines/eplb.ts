import { SwitchyardError } from '@switchyard/proto';

/**
 * DeepSeek's Expert-Parallelism Load Balancer, from its published description: give each spare slot to the expert with the largest load per replica, then pack replicas
 * onto workers, heaviest first, each on the least loaded worker that still has a slot. It assumes an even split over replicas, equal slots, and may put two replicas of
 * one expert on one worker: `workersOf` then names that worker twice.
 */
export interface EplbPlan {
  /** Worker of every replica, (experts) of (replicas). */
  workersOf: number[][];
}

/** @param loads (experts) @param slots replicas in all, a multiple of `workers` and at least the number of experts */
export function eplbGlobal(loads: ArrayLike<number>, slots: number, workers: number): EplbPlan {
  if (slots % workers !== 0 || slots < loads.length)
    throw new SwitchyardError(
      'bad_plan',
      `EPLB: ${slots} slots for ${loads.length} experts on ${workers} workers: must be a multiple of the workers and hold every expert`,
      { param: 'slots' },
    );
  const { expertOf, weights } = replicate(loads, slots);
  const packOf = balancedPacking(weights, workers);
  const workersOf: number[][] = Array.from({ length: loads.length }, () => []);
  expertOf.forEach((e, i) => {
    workersOf[e].push(packOf[i]);
  });
  for (const list of workersOf) list.sort((a, b) => a - b);
  return { workersOf };
}

/** Groups of consecutive experts are packed onto nodes, then each node replicates and packs on its own workers. Needs groups % nodes == 0. */
export function eplbHierarchical(loads: ArrayLike<number>, slots: number, workers: number, nodes: number, groups: number): EplbPlan {
  const experts = loads.length;
  if (experts % groups !== 0 || groups % nodes !== 0 || workers % nodes !== 0 || slots % workers !== 0)
    throw new SwitchyardError(
      'bad_plan',
      `EPLB hierarchical: ${experts} experts in ${groups} groups, ${nodes} nodes, ${workers} workers, ${slots} slots do not divide`,
      { param: 'groups' },
    );
  const size = experts / groups;
  const groupLoads = Float64Array.from({ length: groups }, (_, g) => sum(loads, g * size, (g + 1) * size));
  const nodeOfGroup = balancedPacking(groupLoads, nodes);
  const workersOf: number[][] = Array.from({ length: experts }, () => []);
  for (let n = 0; n < nodes; n++) {
    const members = Array.from({ length: experts }, (_, e) => e).filter((e) => nodeOfGroup[Math.floor(e / size)] === n);
    const inside = eplbGlobal(
      members.map((e) => loads[e]),
      slots / nodes,
      workers / nodes,
    );
    inside.workersOf.forEach((list, i) => {
      workersOf[members[i]] = list.map((w) => w + (n * workers) / nodes);
    });
  }
  return { workersOf };
}

function sum(values: ArrayLike<number>, from: number, to: number): number {
  let total = 0;
  for (let i = from; i < to; i++) total += values[i];
  return total;
}

function replicate(loads: ArrayLike<number>, slots: number): { expertOf: number[]; weights: Float64Array } {
  const copies = new Int32Array(loads.length).fill(1);
  const expertOf = Array.from({ length: loads.length }, (_, e) => e);
  while (expertOf.length < slots) {
    let best = 0;
    for (let e = 1; e < loads.length; e++) if (loads[e] / copies[e] > loads[best] / copies[best]) best = e;
    copies[best]++;
    expertOf.push(best);
  }
  return { expertOf, weights: Float64Array.from(expertOf, (e) => loads[e] / copies[e]) };
}

/** Items go heaviest first to the lightest pack with room; every pack gets the same number. */
function balancedPacking(weights: ArrayLike<number>, packs: number): Int32Array {
  const perPack = weights.length / packs;
  const order = Array.from({ length: weights.length }, (_, i) => i).sort((a, b) => weights[b] - weights[a] || a - b);
  const packOf = new Int32Array(weights.length);
  const load = new Float64Array(packs);
  const count = new Int32Array(packs);
  for (const i of order) {
    let best = -1;
    for (let p = 0; p < packs; p++) if (count[p] < perPack && (best < 0 || load[p] < load[best])) best = p;
    packOf[i] = best;
    load[best] += weights[i];
    count[best]++;
  }
  return packOf;
}

/** Load of each worker when every expert's load is split evenly over its replicas, (workers). */
export function evenSplitLoads(loads: ArrayLike<number>, workersOf: readonly (readonly number[])[], workers: number): Float64Array {
  const load = new Float64Array(workers);
  workersOf.forEach((list, e) => {
    for (const w of list) load[w] += loads[e] / list.length;
  });
  return load;
}

/** The largest of them (EPLB's own yardstick). */
export function evenSplitPeak(loads: ArrayLike<number>, workersOf: readonly (readonly number[])[], workers: number): number {
  return evenSplitLoads(loads, workersOf, workers).reduce((a, b) => Math.max(a, b), 0);
}
