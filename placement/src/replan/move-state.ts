import type { Plan } from '@switchyard/proto';
import type { LayerCost } from './stage-price.ts';

export interface Change {
  layer: number;
  expert: number;
  worker: number;
}

/** Changes that are made together. */
export interface Way {
  adds: Change[];
  drops: Change[];
}

/** Longest chain of displaced experts that one stage may hold before it becomes the rest of the move. */
const chainMax = 24;

/** A plan on its way to another: who holds what, what is still wanted, what the target does not have, and what each change would be worth. */
export class MoveState {
  /** Workers of each expert, ascending, [layer][expert]. */
  readonly replicas: number[][][];
  /** Experts that each worker could still hold, (workers); below 0 where it holds more than its memory. */
  readonly free: Int32Array;
  private readonly target: Plan['replicas'];
  private readonly costs: readonly LayerCost[];
  /** What each worker holds and the target does not have there, by layer and expert, (workers). It only ever shrinks: what is copied is the target's. */
  private readonly surplus: Map<string, Change>[];

  constructor(current: Plan['replicas'], target: Plan['replicas'], slotsOf: Int32Array, costs: readonly LayerCost[]) {
    this.replicas = current.map((layer) => layer.map((own) => [...own]));
    this.target = target;
    this.costs = costs;
    this.free = slotsOf.slice();
    this.surplus = Array.from(slotsOf, () => new Map<string, Change>());
    this.replicas.forEach((layer, l) => {
      layer.forEach((own, e) => {
        for (const worker of own) {
          this.free[worker]--;
          if (!target[l][e].includes(worker)) this.surplus[worker].set(`${l} ${e}`, { layer: l, expert: e, worker });
        }
      });
    });
  }

  /** What the target has and nobody has copied yet. */
  wanted(): Change[] {
    return this.target.flatMap((layer, l) =>
      layer.flatMap((own, e) => own.filter((w) => !this.replicas[l][e].includes(w)).map((worker) => ({ layer: l, expert: e, worker }))),
    );
  }

  /** What the target does not have, on all workers. */
  unwanted(): Change[] {
    return this.surplus.flatMap((own) => [...own.values()]);
  }

  /** The stage that begins with one wanted copy: follows what it displaces. Null where that leads nowhere. */
  chainFrom(first: Change): Way | null {
    const { replicas: state, target, free } = this;
    const adds = [first];
    const drops: Change[] = [];
    const taken = new Set<string>();
    const room = new Map<number, number>();
    const have = (w: number) => free[w] + (room.get(w) ?? 0);
    const shift = (w: number, by: number) => room.set(w, (room.get(w) ?? 0) + by);
    const isTaken = (c: Change) => taken.has(`${c.layer} ${c.expert} ${c.worker}`);
    const drop = (c: Change) => {
      drops.push(c);
      taken.add(`${c.layer} ${c.expert} ${c.worker}`);
      shift(c.worker, 1);
    };
    // Prefer something that has another replica, or that closes the chain on a worker with room.
    const remains = (c: Change) => state[c.layer][c.expert].some((w) => w !== c.worker && !isTaken({ ...c, worker: w }));
    const placeFor = (c: Change) => target[c.layer][c.expert].find((w) => !state[c.layer][c.expert].includes(w));
    for (let i = 0; i < adds.length; i++) {
      if (i === chainMax) return null;
      const { layer, expert, worker } = adds[i];
      shift(worker, -1);
      // The copy that this one replaces goes first: it frees its own worker.
      for (const old of state[layer][expert])
        if (!target[layer][expert].includes(old) && !isTaken({ layer, expert, worker: old })) drop({ layer, expert, worker: old });
      if (have(worker) >= Math.min(0, free[worker])) continue;
      const ways = [...this.surplus[worker].values()].filter((c) => !isTaken(c));
      const easy = ways.find(remains) ?? ways.find((c) => placeFor(c) !== undefined && have(placeFor(c)!) > 0) ?? ways[0];
      if (easy === undefined) return null;
      drop(easy);
      if (!remains(easy) || state[easy.layer][easy.expert].length === 1) {
        const to = placeFor(easy);
        if (to === undefined) return null;
        if (!adds.some((a) => a.layer === easy.layer && a.expert === easy.expert && a.worker === to)) adds.push({ ...easy, worker: to });
      }
    }
    return { adds, drops };
  }

  /** False once another stage has made one of the stage's copies, or dropped what it drops. */
  applies({ adds, drops }: Way): boolean {
    const has = ({ layer, expert, worker }: Change) => this.replicas[layer][expert].includes(worker);
    return !adds.some(has) && drops.every(has);
  }

  /** What a stage would gain; null where an expert would have no replica or memory would not do. */
  gainOf(way: Way): number | null {
    const use = new Map<number, number>();
    for (const { worker } of way.adds) use.set(worker, (use.get(worker) ?? 0) + 1);
    for (const { worker } of way.drops) use.set(worker, (use.get(worker) ?? 0) - 1);
    // A worker that is over its memory may still exchange and drop.
    for (const [w, more] of use) if (more > Math.max(0, this.free[w])) return null;
    let gain = 0;
    const after = this.after(way);
    for (const { holders, changed } of after.values()) if (changed.some((e) => holders[e].length === 0)) return null;
    for (const [l, { holders, changed }] of after) gain += this.costs[l].cost - this.costs[l].trial(holders, changed);
    return gain;
  }

  commit(way: Way): void {
    for (const [l, { holders, changed }] of this.after(way)) {
      this.costs[l].set(holders, changed);
      this.replicas[l] = holders;
    }
    for (const { worker } of way.adds) this.free[worker]--;
    for (const { layer, expert, worker } of way.drops) {
      this.free[worker]++;
      this.surplus[worker].delete(`${layer} ${expert}`);
    }
  }

  /** The layers that a stage touches, as they would be. */
  private after({ adds, drops }: Way): Map<number, { holders: number[][]; changed: number[] }> {
    const after = new Map<number, { holders: number[][]; changed: number[] }>();
    const change = ({ layer, expert }: Change, to: (own: number[]) => number[]) => {
      let own = after.get(layer);
      if (own === undefined) {
        own = { holders: [...this.replicas[layer]], changed: [] };
        after.set(layer, own);
      }
      own.holders[expert] = to(own.holders[expert]);
      if (!own.changed.includes(expert)) own.changed.push(expert);
    };
    for (const c of drops) change(c, (own) => own.filter((w) => w !== c.worker));
    for (const c of adds) change(c, (own) => [...own, c.worker].sort((a, b) => a - b));
    return after;
  }
}
