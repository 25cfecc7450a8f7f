import type { Plan } from '@switchyard/proto';
import type { Cluster } from '../cluster/cluster.ts';
import { evenOut } from './load-balance.ts';

/** A copy or an exchange inside a node must take so much off its layer's fullest worker: copies cost bytes, and rows that were counted on a sample are noisy. */
const gainMin = 0.02;

/**
 * Second level of a warm start: experts that stay on their node stay on their workers. New ones go to the worker with room that has least to do in their layer; then
 * second copies and exchanges only where they take a few percent off the fullest worker.
 *
 * @param masks  nodes that hold each expert, (layers) of (experts)
 * @param served rows that each expert serves on each node, (layers) of (experts, nodes)
 * @param current workers of each expert in the plan in force, [layer][expert]
 * @param copiesMax replicas of all layers, at most, where nodes hold fewer
 * @param stop true: no second copies are added any more
 * @returns workers of each expert, ascending, [layer][expert]
 */
export function keepWorkers(
  masks: readonly Int32Array[],
  served: readonly Float64Array[],
  cluster: Cluster,
  current: Plan['replicas'],
  copiesMax: number,
  stop: () => boolean,
): number[][][] {
  const replicas: number[][][] = masks.map((layer) => Array.from(layer, () => []));
  const nodes = Array.from({ length: cluster.nodes }, (_, n) => new KeptNode(n, masks, served, cluster, current));
  for (const node of nodes) {
    node.fitMemory();
    node.placeNew();
  }
  let spare = copiesMax - nodes.reduce((sum, node) => sum + node.copies(), 0);
  if (spare < 0) spare += dropSecondCopies(nodes, -spare);
  for (const [n, node] of nodes.entries()) {
    spare -= node.addCopies(Math.floor(spare / (nodes.length - n)), stop);
    node.exchange();
    node.layers.forEach(({ experts, workersOf }, l) => {
      experts.forEach((e, i) => {
        for (const w of workersOf[i]) replicas[l][e].push(node.workers[w]);
      });
    });
  }
  for (const layer of replicas) for (const list of layer) list.sort((a, b) => a - b);
  return replicas;
}

/** Drops so many replicas, as far as there are second copies inside nodes, those with fewest rows first. Returns how many it dropped. */
function dropSecondCopies(nodes: readonly KeptNode[], count: number): number {
  const second = nodes.flatMap((node) =>
    node.layers.flatMap(({ loads, workersOf }) =>
      workersOf.flatMap((own, i) => (own.length < 2 ? [] : own.slice(1).map(() => ({ node, own, rows: loads[i] / own.length })))),
    ),
  );
  second.sort((a, b) => a.rows - b.rows);
  for (const { node, own } of second.slice(0, count)) node.release(own);
  return Math.min(count, second.length);
}

/** The experts that a node holds in one layer. Workers are numbered inside their node. */
interface KeptLayer {
  experts: number[];
  /** Rows of each, (experts of the layer here). */
  loads: Float64Array;
  /** (experts of the layer here) of (replicas) */
  workersOf: number[][];
}

class KeptNode {
  /** Numbers in the cluster of the node's workers. */
  readonly workers: number[];
  readonly layers: KeptLayer[];
  private readonly speed: Float64Array;
  /** Experts that each worker could still hold, (workers). */
  private readonly free: Int32Array;

  constructor(n: number, masks: readonly Int32Array[], served: readonly Float64Array[], cluster: Cluster, current: Plan['replicas']) {
    this.workers = cluster.workers.map((_, w) => w).filter((w) => cluster.nodeOf[w] === n);
    this.speed = Float64Array.from(this.workers, (w) => cluster.speedOf[w]);
    this.free = Int32Array.from(this.workers, (w) => cluster.slotsOf[w]);
    const numberOf = new Map(this.workers.map((w, i) => [w, i]));
    this.layers = masks.map((mask, l) => {
      const experts = Array.from(mask, (_, e) => e).filter((e) => (mask[e] >>> n) & 1);
      return {
        experts,
        loads: Float64Array.from(experts, (e) => served[l][e * cluster.nodes + n]),
        workersOf: experts.map((e) => current[l][e].flatMap((w) => numberOf.get(w) ?? [])),
      };
    });
    for (const { workersOf } of this.layers) for (const own of workersOf) for (const w of own) this.free[w]--;
  }

  copies(): number {
    return this.layers.reduce((sum, { workersOf }) => sum + workersOf.reduce((n, own) => n + own.length, 0), 0);
  }

  /** Takes one of an expert's replicas from a worker, the one that has least room. */
  release(own: number[]): void {
    const worker = own.reduce((least, w) => (this.free[w] < this.free[least] ? w : least));
    own.splice(own.indexOf(worker), 1);
    this.free[worker]++;
  }

  /** Second copies give way to experts that have no worker yet, and to workers' memory; where that is not enough, what has fewest rows moves to where room is. */
  fitMemory(): void {
    const { free, layers } = this;
    const lacking = layers.reduce((sum, { workersOf }) => sum + workersOf.filter((own) => own.length === 0).length, 0);
    const room = () => free.reduce((a, b) => a + b, 0);
    for (let w = 0; w < free.length; w++) while (free[w] < 0 && this.drop((v) => v === w, 2)) free[w]++;
    while (room() < lacking) {
      const dropped = this.drop(() => true, 2);
      if (dropped === null) break;
      free[dropped.worker]++;
    }
    for (let w = 0; w < free.length; w++)
      while (free[w] < 0) {
        const dropped = this.drop((v) => v === w, 1)!;
        free[w]++;
        const to = free.indexOf(free.reduce((a, b) => Math.max(a, b)));
        dropped.from.push(to);
        free[to]--;
      }
  }

  /** Takes the replica with fewest rows, of experts with at least so many, from one of the workers. */
  private drop(of: (worker: number) => boolean, copies: number): { worker: number; from: number[] } | null {
    let found: { worker: number; from: number[] } | null = null;
    let fewest = Infinity;
    for (const { loads, workersOf } of this.layers)
      for (const [i, own] of workersOf.entries()) {
        const rows = loads[i] / own.length;
        const worker = own.length < copies || rows >= fewest ? undefined : own.find(of);
        if (worker === undefined) continue;
        found = { worker, from: own };
        fewest = rows;
      }
    found?.from.splice(found.from.indexOf(found.worker), 1);
    return found;
  }

  /** Heaviest first. */
  placeNew(): void {
    const { free, speed } = this;
    for (const layer of this.layers) {
      const { loads, workersOf } = layer;
      const load = this.loadOf(layer);
      const fresh = workersOf.flatMap((own, i) => (own.length === 0 ? [i] : [])).sort((i, j) => loads[j] - loads[i] || i - j);
      for (const i of fresh) {
        let to = -1;
        for (let w = 0; w < free.length; w++)
          if (free[w] > 0 && (to < 0 || (load[w] + loads[i]) / speed[w] < (load[to] + loads[i]) / speed[to])) to = w;
        workersOf[i].push(to);
        load[to] += loads[i];
        free[to]--;
      }
    }
  }

  /** Fills memory that is left with the second copies that take most off a layer's fullest worker, so many at most. Returns how many it added. */
  addCopies(most: number, stop: () => boolean): number {
    const { free, layers } = this;
    if (most <= 0 || free.every((left) => left <= 0)) return 0;
    const found = layers.map((layer) => (stop() ? null : this.bestCopy(layer)));
    for (let added = 0; ; ) {
      let top = -1;
      found.forEach((copy, l) => {
        if (copy !== null && (top < 0 || copy.gain > found[top]!.gain)) top = l;
      });
      if (top < 0 || added === most || stop()) return added;
      const { i, to } = found[top]!;
      if (free[to] > 0) {
        layers[top].workersOf[i].push(to);
        free[to]--;
        added++;
      }
      found[top] = this.bestCopy(layers[top]);
    }
  }

  private bestCopy(layer: KeptLayer): { gain: number; i: number; to: number } | null {
    const { free, speed } = this;
    const { loads, workersOf } = layer;
    const load = this.loadOf(layer);
    const peakOf = (w: number) => load[w] / speed[w];
    const peak = load.reduce((most, _, w) => Math.max(most, peakOf(w)), 0);
    // Fullest first: of those that a copy leaves as they are, the first counts.
    const byPeak = Array.from(load, (_, w) => w).sort((a, b) => peakOf(b) - peakOf(a));
    let best: { gain: number; i: number; to: number } | null = null;
    let least = peak * (1 - gainMin);
    for (const [i, own] of workersOf.entries()) {
      if (!own.some((w) => peakOf(w) === peak)) continue;
      const share = loads[i] / (own.length + 1);
      const less = loads[i] / own.length - share;
      const relieved = own.reduce((most, w) => Math.max(most, (load[w] - less) / speed[w]), 0);
      for (let to = 0; to < free.length; to++) {
        if (free[to] <= 0 || own.includes(to)) continue;
        const other = byPeak.find((w) => w !== to && !own.includes(w));
        const after = Math.max(relieved, (load[to] + share) / speed[to], other === undefined ? 0 : peakOf(other));
        if (after >= least) continue;
        least = after;
        best = { gain: peak - after, i, to };
      }
    }
    return best;
  }

  exchange(): void {
    for (const { loads, workersOf } of this.layers) {
      const slots = new Int32Array(this.workers.length);
      for (const own of workersOf) for (const w of own) slots[w]++;
      evenOut({ loads, slots, speed: this.speed }, workersOf, gainMin);
    }
  }

  private loadOf({ loads, workersOf }: KeptLayer): Float64Array {
    const load = new Float64Array(this.workers.length);
    workersOf.forEach((own, i) => {
      for (const w of own) load[w] += loads[i] / own.length;
    });
    return load;
  }
}
