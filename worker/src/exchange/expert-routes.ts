import { chooseReplicas, type Plan, SwitchyardError } from '@switchyard/proto';
import type { Doubts } from './doubts.ts';

/** Stands for "no live replica" among chosen workers. */
export const NOBODY = -1;

/**
 * Where a row's experts are computed: the plan, less the workers that cannot be reached now. This is the one place that decides "row i goes to worker w"; a worker
 * that comes or goes changes the answer here and nowhere else.
 */
export class ExpertRoutes {
  readonly home: number;
  readonly plan: Plan;
  /** (workers) */
  readonly nodeOf: Int32Array;
  private readonly reachable: Uint8Array;
  /** Has just refused or been late: asked for what nobody else has. */
  private readonly avoided: Uint8Array;
  /** Live replicas, [moeLayer][expert] -> workers, ascending; those that are avoided where there are no others. */
  private holders: number[][][];
  /** Of the home's node, the same. */
  private neighbours: number[][][];
  /** [moeLayer][expert] -> the only live worker, NOBODY, or SEVERAL. A plan without replicas is answered from it alone. */
  private single: Int32Array[];
  private readonly chosen: Int32Array;

  constructor(plan: Plan, home: number, topK: number) {
    this.plan = plan;
    this.home = home;
    this.nodeOf = Int32Array.from(plan.workers, (worker) => worker.node);
    this.reachable = new Uint8Array(plan.workers.length);
    this.reachable[home] = 1;
    this.avoided = new Uint8Array(plan.workers.length);
    this.chosen = new Int32Array(topK);
    this.holders = [];
    this.neighbours = [];
    this.single = [];
    this.rebuild();
  }

  get workers(): number {
    return this.plan.workers.length;
  }

  /** Workers other than home that hold any expert. */
  peers(): number[] {
    const holders = new Set<number>();
    for (const layer of this.plan.replicas) for (const workers of layer) for (const worker of workers) holders.add(worker);
    holders.delete(this.home);
    return [...holders].sort((a, b) => a - b);
  }

  setReachable(worker: number, reachable: boolean): void {
    if ((this.reachable[worker] === 1) === reachable) return;
    this.reachable[worker] = reachable ? 1 : 0;
    this.rebuild();
  }

  setAvoided(worker: number, avoided: boolean): void {
    if ((this.avoided[worker] === 1) === avoided) return;
    this.avoided[worker] = avoided ? 1 : 0;
    this.rebuild();
  }

  /**
   * Workers for one row. `out[i]` computes `experts[i]`, or is NOBODY; then the row cannot be completed.
   * @param experts (topK) chosen ids
   * @param load (row, expert) pairs queued per worker
   */
  choose(layer: number, experts: Int32Array, topK: number, load: Int32Array, out: Int32Array): void {
    const single = this.single[layer];
    let several = false;
    for (let i = 0; i < topK; i++) {
      const worker = single[experts[i]];
      out[i] = worker;
      if (worker === SEVERAL) several = true;
      else if (worker === NOBODY) return;
    }
    if (!several) return;
    chooseReplicas(experts, topK, this.holders[layer], this.nodeOf, this.home, load, this.chosen);
    out.set(this.chosen);
  }

  /** Workers of the home's node that have the expert and can be reached, ascending; those that are avoided where the node has no others. */
  inNode(layer: number, expert: number): readonly number[] {
    return this.neighbours[layer][expert];
  }

  /**
   * Of the workers that have the expert, can be reached and have not refused, the one with the least load, a suspected or avoided one where there is no other; NOBODY if
   * there is none. For what home does not hold: it would not have sent it away.
   */
  leastLoaded(layer: number, expert: number, { refused, suspected }: Doubts, load: Int32Array): number {
    const willing = this.plan.replicas[layer][expert].filter((worker) => this.reachable[worker] === 1 && !refused.has(worker));
    const trusted = willing.filter((worker) => this.avoided[worker] === 0 && !suspected.has(worker));
    const among = trusted.length > 0 ? trusted : willing;
    return among.reduce((best, worker) => (best === NOBODY || load[worker] < load[best] ? worker : best), NOBODY);
  }

  /** Why the expert has no worker. */
  unavailable(layer: number, expert: number): SwitchyardError {
    const holders = this.plan.replicas[layer][expert].map((worker) => this.plan.workers[worker].name).join(', ');
    return new SwitchyardError(
      'expert_unavailable',
      `expert ${expert} of layer ${this.plan.model.moeLayers[layer]} is hosted by ${holders}, which cannot be reached`,
    );
  }

  /** Of these, who can be reached; those that are avoided where there are no others. */
  private willing(workers: readonly number[]): number[] {
    const live = workers.filter((worker) => this.reachable[worker] === 1);
    const willing = live.filter((worker) => this.avoided[worker] === 0);
    return willing.length > 0 ? willing : live;
  }

  private rebuild(): void {
    const { nodeOf, home } = this;
    this.holders = this.plan.replicas.map((layer) => layer.map((workers) => this.willing(workers)));
    this.neighbours = this.plan.replicas.map((layer) =>
      layer.map((workers) => this.willing(workers.filter((worker) => nodeOf[worker] === nodeOf[home]))),
    );
    this.single = this.holders.map((layer) =>
      Int32Array.from(layer, (workers) => (workers.length === 0 ? NOBODY : workers.length === 1 ? workers[0] : SEVERAL)),
    );
  }
}

const SEVERAL = -2;
