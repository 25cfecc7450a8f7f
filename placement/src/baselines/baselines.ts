import { contiguousPlan, type Plan, SwitchyardError, type Topology } from '@switchyard/proto';
import { type Cluster, clusterOf } from '../cluster/cluster.ts';
import { exflow, moetunerClusters, moetunerDevices } from '../ilp/chain-programs.ts';
import { highsSolver } from '../ilp/highs.ts';
import type { IlpSolver } from '../ilp/program.ts';
import { planOf } from '../place.ts';
import { seededRandom, shuffle } from '../random.ts';
import { type Transitions, transitionsOf } from '../score/transitions.ts';
import { evenParts } from '../solve/solve-chain.ts';
import { assignToBins } from '../solve/transportation.ts';
import { expertLoads } from '../trace/load-matrix.ts';
import type { RoutingTrace } from '../trace/routing-trace.ts';
import { eplbGlobal, eplbHierarchical } from './eplb.ts';

export const baselineNames = ['contiguous', 'round-robin', 'random', 'eplb', 'eplb-hierarchical', 'exflow', 'moetuner'] as const;
export type BaselineName = (typeof baselineNames)[number];

export interface BaselineOptions {
  /** Memory for replicas as a share of one copy; only EPLB uses it, rounded up to what divides the workers. */
  replicas: number;
  seed: number;
  /** Time of one integer program (ExFlow, MoETuner). */
  timeLimitMs: number;
  solver: IlpSolver;
  /** Expert groups of EPLB's hierarchical policy; by default one per node. */
  groups?: number;
  signal?: AbortSignal;
}

/** A known way to place experts, as a plan: what to compare with. Every one takes the same inputs and ignores what it does not use. */
export async function baselinePlan(
  name: BaselineName,
  trace: RoutingTrace,
  topology: Topology,
  options: Partial<BaselineOptions> = {},
): Promise<Plan> {
  const o: BaselineOptions = { replicas: 0, seed: 1, timeLimitMs: 20_000, solver: highsSolver, ...options };
  const cluster = clusterOf(topology);
  const layers = trace.moeLayers.length;
  const workers = cluster.workers.length;
  const single = (workerOf: (l: number, e: number) => number) =>
    Array.from({ length: layers }, (_, l) => Array.from({ length: trace.experts }, (_, e) => [workerOf(l, e)]));
  const plan = (replicas: number[][][]) => planOf(trace, cluster, replicas, { method: name, seed: o.seed });
  if (name === 'contiguous') {
    const model = { type: trace.modelType ?? trace.model, moeLayers: trace.moeLayers, experts: trace.experts };
    return contiguousPlan(model, cluster.workers);
  }
  if (name === 'round-robin') return plan(single((_, e) => e % workers));
  if (name === 'random') {
    const random = seededRandom(o.seed);
    const partOf = evenParts(layers, trace.experts, workers);
    for (let l = 0; l < layers; l++) shuffle(partOf.subarray(l * trace.experts, (l + 1) * trace.experts), random);
    return plan(single((l, e) => partOf[l * trace.experts + e]));
  }
  if (name === 'eplb' || name === 'eplb-hierarchical') return plan(eplbPlan(name, trace, cluster, o));
  if (name === 'exflow') return plan(await exflowPlan(trace, cluster, o));
  return plan(await moetunerPlan(trace, cluster, topology, o));
}

/** Both published two-level policies number the workers node by node, equally many on each. @throws bad_plan where nodes are not like that */
function workersPerNode(cluster: Cluster, policy: string): number {
  const perNode = cluster.workers.length / cluster.nodes;
  const uneven = cluster.nodeOf.findIndex((node, w) => node !== Math.floor(w / perNode));
  if (uneven >= 0)
    throw new SwitchyardError(
      'bad_plan',
      `${policy}: worker ${uneven} is on node ${cluster.nodeOf[uneven]}, must be on ${Math.floor(uneven / perNode)}: nodes of ${perNode} workers each`,
      { param: 'workers' },
    );
  return perNode;
}

function eplbPlan(name: 'eplb' | 'eplb-hierarchical', trace: RoutingTrace, cluster: Cluster, o: BaselineOptions): number[][][] {
  const { counts, experts } = expertLoads(trace);
  const workers = cluster.workers.length;
  const slots = Math.ceil((experts * (1 + o.replicas) - 1e-9) / workers) * workers;
  if (name === 'eplb-hierarchical') workersPerNode(cluster, 'EPLB hierarchical');
  return trace.moeLayers.map((_, l) => {
    const loads = counts.subarray(l * experts, (l + 1) * experts);
    const { workersOf } =
      name === 'eplb'
        ? eplbGlobal(loads, slots, workers)
        : eplbHierarchical(loads, slots, workers, cluster.nodes, o.groups ?? cluster.nodes);
    // A plan names a worker once; EPLB may put two replicas of one expert on it.
    return workersOf.map((list) => [...new Set(list)]);
  });
}

/** Transitions among given experts of each layer (equally many in every layer). */
function among(w: Transitions, members: number[][]): Transitions {
  const experts = members[0].length;
  const counts = w.counts.map((full, l) =>
    Float64Array.from(
      { length: experts * experts },
      (_, i) => full[members[l][Math.floor(i / experts)] * w.experts + members[l + 1][i % experts]],
    ),
  );
  return { layers: w.layers, experts, counts, loads: new Float64Array(w.layers * experts) };
}

/** ExFlow in two stages, as published: nodes first, then the workers of each node. Its program is solved for as long as the limit allows. */
async function exflowPlan(trace: RoutingTrace, cluster: Cluster, o: BaselineOptions): Promise<number[][][]> {
  const w = transitionsOf(trace, 'top1');
  const perNode = workersPerNode(cluster, 'ExFlow');
  if (trace.experts % cluster.workers.length !== 0)
    throw new SwitchyardError(
      'bad_plan',
      `ExFlow: ${trace.experts} experts on ${cluster.workers.length} workers of ${cluster.nodes} nodes do not divide`,
      { param: 'workers' },
    );
  const solve = async (part: Transitions, parts: number) => {
    if (parts === 1) return new Int32Array(part.layers * part.experts);
    const { program, decode } = exflow(part, parts);
    const { values } = await o.solver.solve(program, { timeLimitMs: o.timeLimitMs, ...(o.signal ? { signal: o.signal } : {}) });
    return values === null ? evenParts(part.layers, part.experts, parts) : decode(values);
  };
  const nodeOf = await solve(w, cluster.nodes);
  const replicas: number[][][] = trace.moeLayers.map(() => Array.from({ length: trace.experts }, () => []));
  for (let n = 0; n < cluster.nodes; n++) {
    const members = trace.moeLayers.map((_, l) =>
      Array.from({ length: trace.experts }, (_, e) => e).filter((e) => nodeOf[l * trace.experts + e] === n),
    );
    const inside = await solve(among(w, members), perNode);
    members.forEach((list, l) => {
      list.forEach((e, i) => {
        replicas[l][e] = [n * perNode + inside[l * list.length + i]];
      });
    });
  }
  return replicas;
}

/** Clusters beyond this many make the second stage's products too many: then labels are assigned layer by layer, which is exact for a sum of equal links. */
const moetunerDevicesMax = 4;

async function moetunerPlan(trace: RoutingTrace, cluster: Cluster, topology: Topology, o: BaselineOptions): Promise<number[][][]> {
  const devices = cluster.workers.length;
  const { counts, experts } = expertLoads(trace);
  const layers = trace.moeLayers.length;
  const limits = { timeLimitMs: o.timeLimitMs / layers, ...(o.signal ? { signal: o.signal } : {}) };
  const clusterOf_: Int32Array[] = [];
  for (let l = 0; l < layers; l++) {
    const loads = counts.slice(l * experts, (l + 1) * experts);
    const { program, decode } = moetunerClusters(loads, devices);
    const { values } = await o.solver.solve(program, limits);
    clusterOf_.push(values === null ? evenParts(1, experts, devices) : decode(values));
  }
  const w = transitionsOf(trace, 'top1');
  const flow = w.counts.map((full, l) => {
    const f = new Float64Array(devices * devices);
    for (let e = 0; e < experts; e++)
      for (let g = 0; g < experts; g++) f[clusterOf_[l][e] * devices + clusterOf_[l + 1][g]] += full[e * experts + g];
    return f;
  });
  let deviceOf: Int32Array;
  if (devices <= moetunerDevicesMax) {
    const slowness = Float64Array.from({ length: devices * devices }, (_, i) => {
      const a = Math.floor(i / devices);
      const b = i % devices;
      return a === b ? 0 : 1 / (cluster.nodeOf[a] === cluster.nodeOf[b] ? topology.intraNode.bandwidth : topology.interNode.bandwidth);
    });
    const fastest = slowness.reduce((least, s) => (s > 0 ? Math.min(least, s) : least), Infinity);
    const { program, decode } = moetunerDevices(
      flow,
      devices,
      slowness.map((s) => s / fastest),
    );
    const { values } = await o.solver.solve(program, { ...limits, timeLimitMs: o.timeLimitMs });
    deviceOf = values === null ? Int32Array.from({ length: layers * devices }, (_, i) => i % devices) : decode(values);
  } else deviceOf = labelChain(flow, devices);
  return Array.from({ length: layers }, (_, l) => Array.from({ length: experts }, (_, e) => [deviceOf[l * devices + clusterOf_[l][e]]]));
}

/**
 * Names for the clusters of every layer that keep most transitions on one device: one assignment problem per layer, exact because a chain has no cycle.
 *
 * @param flow (layers - 1) of (devices, devices) @returns device of each cluster, (layers, devices)
 */
export function labelChain(flow: readonly ArrayLike<number>[], devices: number): Int32Array {
  const labels = new Int32Array((flow.length + 1) * devices);
  for (let c = 0; c < devices; c++) labels[c] = c;
  flow.forEach((f, l) => {
    const cost = new Float64Array(devices * devices);
    for (let c = 0; c < devices; c++) for (let d = 0; d < devices; d++) cost[d * devices + labels[l * devices + c]] -= f[c * devices + d];
    labels.set(assignToBins(cost, new Int32Array(devices).fill(1)), (l + 1) * devices);
  });
  return labels;
}
