import { setImmediate as nextTurn } from 'node:timers/promises';
import { chooseReplicas, type Plan, SwitchyardError } from '@switchyard/proto';
import type { Cluster } from '../cluster/cluster.ts';
import { holderMasks, maskNodesMax, NodeCover, popcount } from '../cluster/node-set.ts';
import { NO_EXPERT, type RoutingTrace } from '../trace/routing-trace.ts';
import { checkSameShape, replicaCount } from './moves.ts';

/**
 * One step of a migration: everything in it switches together. The plan after it is valid, and no worse than the one before unless memory or the number of replicas
 * asks for it (see `stageMove`).
 */
export interface Stage {
  adds: { layer: number; expert: number; worker: number }[];
  drops: { layer: number; expert: number; worker: number }[];
  /** Remote nodes per token and layer after the stage, on the trace it was planned with. */
  remoteNodes: number;
  /** Bytes copied in this stage. */
  bytes: number;
}

export interface StagedMove {
  stages: Stage[];
  /** The plan after the last stage: the target, unless bytes ran out. It fits the memory, and has no more replicas than the target. */
  reached: Plan;
  bytes: number;
  remoteNodesBefore: number;
  remoteNodesAfter: number;
}

interface Change {
  layer: number;
  expert: number;
  worker: number;
}

/** Changes that are made together. */
type Way = Pick<Stage, 'adds' | 'drops'>;

/** So many are priced between two turns of the event loop, a millisecond each where layers are large: signals are heard meanwhile. */
const trialsPerTurn = 32;

/** Longest chain of displaced experts that one stage may hold before it becomes the rest of the move. */
const chainMax = 24;

/**
 * Splits the way from one plan to another into small stages: a copy, with whatever it displaces (a worker's memory is full, so something leaves it; if that was the
 * only replica it needs a place first, and so on until a free slot or the first worker is reached). Stages that save most per byte go first; those that would make
 * the plan worse wait, and what never improves alone goes together in one last stage if that is no worse, or not at all.
 *
 * With `bytesMax` this is re-planning under a budget: the best prefix that fits.
 *
 * Two things go before "no worse". Where the current plan holds more than a worker's memory, replicas leave that worker first. And what is reached has no more
 * replicas than the target: dropping costs no bytes, so those that the target does not have are dropped in the end, the least missed first.
 *
 * @param cluster with its memory as it is: a limit that was set for the target's sake is not one that the stages on the way must keep
 * @param homes home worker of each sequence of the trace, held fixed
 * @param options.signal aborted: what has been staged until then is the result, if it fits
 * @throws bad_plan where a worker holds more than its memory and `bytesMax` does not suffice to change that
 */
export async function stageMove(
  current: Plan,
  target: Plan,
  cluster: Cluster,
  trace: RoutingTrace,
  homes: Int32Array,
  options: { expertBytes: number; bytesMax?: number; signal?: AbortSignal },
): Promise<StagedMove> {
  checkSameShape(current, target);
  const { expertBytes, bytesMax = Infinity, signal } = options;
  const state = current.replicas.map((layer) => layer.map((own) => [...own]));
  const price = layerPricer(trace, cluster, homes);
  const cost = state.map((layer, l) => price(l, layer));
  const perToken = trace.tokens * state.length;
  const sum = () => cost.reduce((a, b) => a + b, 0) / perToken;
  const free = cluster.slotsOf.slice();
  for (const layer of state) for (const own of layer) for (const w of own) free[w]--;
  const remoteNodesBefore = sum();
  const stages: Stage[] = [];
  let bytes = 0;
  let held = replicaCount(current);

  const wanted = (): Change[] => {
    const list: Change[] = [];
    target.replicas.forEach((layer, l) => {
      layer.forEach((own, e) => {
        for (const w of own) if (!state[l][e].includes(w)) list.push({ layer: l, expert: e, worker: w });
      });
    });
    return list;
  };
  const surplusOn = (worker: number, taken: ReadonlySet<string>): Change[] => {
    const list: Change[] = [];
    state.forEach((layer, l) => {
      layer.forEach((own, e) => {
        if (own.includes(worker) && !target.replicas[l][e].includes(worker) && !taken.has(`${l} ${e} ${worker}`))
          list.push({ layer: l, expert: e, worker });
      });
    });
    return list;
  };
  /** The stage that begins with one wanted copy: follows what it displaces. */
  const chainFrom = (first: Change): { adds: Change[]; drops: Change[] } | null => {
    const adds = [first];
    const drops: Change[] = [];
    const taken = new Set<string>();
    const room = new Map<number, number>();
    const have = (w: number) => free[w] + (room.get(w) ?? 0);
    const shift = (w: number, by: number) => room.set(w, (room.get(w) ?? 0) + by);
    const drop = (c: Change) => {
      drops.push(c);
      taken.add(`${c.layer} ${c.expert} ${c.worker}`);
      shift(c.worker, 1);
    };
    for (let i = 0; i < adds.length; i++) {
      if (i === chainMax) return null;
      const { layer, expert, worker } = adds[i];
      shift(worker, -1);
      // The copy that this one replaces goes first: it frees its own worker.
      for (const old of state[layer][expert])
        if (!target.replicas[layer][expert].includes(old) && !taken.has(`${layer} ${expert} ${old}`)) drop({ layer, expert, worker: old });
      if (have(worker) >= Math.min(0, free[worker])) continue;
      const options_ = surplusOn(worker, taken);
      // Prefer something that has another replica, or that closes the chain on a worker with room.
      const remains = (c: Change) => state[c.layer][c.expert].some((w) => w !== c.worker && !taken.has(`${c.layer} ${c.expert} ${w}`));
      const placeFor = (c: Change) => target.replicas[c.layer][c.expert].find((w) => !state[c.layer][c.expert].includes(w));
      const easy = options_.find(remains) ?? options_.find((c) => placeFor(c) !== undefined && have(placeFor(c)!) > 0) ?? options_[0];
      if (easy === undefined) return null;
      drop(easy);
      if (!remains(easy) || state[easy.layer][easy.expert].length === 1) {
        const to = placeFor(easy);
        if (to === undefined) return null;
        if (!adds.some((a) => a.layer === easy.layer && a.expert === easy.expert && a.worker === to)) adds.push({ ...easy, worker: to });
      }
    }
    return { adds, drops };
  };
  const applyTo = (plan: number[][][], { adds, drops }: { adds: Change[]; drops: Change[] }) => {
    for (const { layer, expert, worker } of drops) plan[layer][expert] = plan[layer][expert].filter((w) => w !== worker);
    for (const { layer, expert, worker } of adds) plan[layer][expert] = [...plan[layer][expert], worker].sort((a, b) => a - b);
  };
  /** Cost of the touched layers if the stage were applied; null where an expert would have no replica or memory would not do. */
  const trial = (stage: { adds: Change[]; drops: Change[] }): Map<number, number> | null => {
    const touched = new Set([...stage.adds, ...stage.drops].map((c) => c.layer));
    const next: number[][][] = [];
    for (const l of touched) next[l] = state[l].map((own) => [...own]);
    applyTo(next, stage);
    const use = new Map<number, number>();
    for (const { worker } of stage.adds) use.set(worker, (use.get(worker) ?? 0) + 1);
    for (const { worker } of stage.drops) use.set(worker, (use.get(worker) ?? 0) - 1);
    // A worker that is over its memory may still exchange and drop.
    for (const [w, more] of use) if (more > Math.max(0, free[w])) return null;
    for (const { layer, expert } of stage.drops) if (next[layer][expert].length === 0) return null;
    return new Map([...touched].map((l) => [l, price(l, next[l])]));
  };
  const commit = (stage: { adds: Change[]; drops: Change[] }, costs: Map<number, number>) => {
    applyTo(state, stage);
    for (const { worker } of stage.adds) free[worker]--;
    for (const { worker } of stage.drops) free[worker]++;
    for (const [l, c] of costs) cost[l] = c;
    bytes += stage.adds.length * expertBytes;
    held += stage.adds.length - stage.drops.length;
    stages.push({ ...stage, remoteNodes: sum(), bytes: stage.adds.length * expertBytes });
  };
  const gainOf = (costs: Map<number, number>) => [...costs].reduce((gain, [l, c]) => gain + cost[l] - c, 0);
  /** False once another stage has made one of the stage's copies, or dropped what it drops. */
  const applies = ({ adds, drops }: { adds: Change[]; drops: Change[] }) =>
    adds.every((a) => !state[a.layer][a.expert].includes(a.worker)) && drops.every((d) => state[d.layer][d.expert].includes(d.worker));
  /** Drops replicas that the target does not have while `wants` them gone, the least missed first, as one stage. */
  const dropSurplus = (wants: (c: Change) => boolean) => {
    const found: { drop: Change; gain: number }[] = [];
    state.forEach((layer, l) => {
      layer.forEach((own, e) => {
        for (const w of own) {
          const drop = { layer: l, expert: e, worker: w };
          if (target.replicas[l][e].includes(w) || own.length === 1 || !wants(drop)) continue;
          const costs = trial({ adds: [], drops: [drop] });
          if (costs !== null) found.push({ drop, gain: gainOf(costs) });
        }
      });
    });
    found.sort((a, b) => b.gain - a.gain);
    const first = stages.length;
    for (const { drop } of found) {
      if (!wants(drop)) continue;
      const costs = trial({ adds: [], drops: [drop] });
      if (costs !== null) commit({ adds: [], drops: [drop] }, costs);
    }
    const drops = stages.splice(first).flatMap((stage) => stage.drops);
    if (drops.length > 0) stages.push({ adds: [], drops, remoteNodes: sum(), bytes: 0 });
  };
  /** The stages that begin with one of the changes, with what they cost; those of an aborted search are not all. */
  const trialsOf = async (changes: readonly Change[], suits: (stage: Way) => boolean) => {
    const found: { stage: Way; gain: number }[] = [];
    for (const [i, first] of changes.entries()) {
      if (i % trialsPerTurn === trialsPerTurn - 1) await nextTurn();
      if (signal?.aborted) break;
      const stage = chainFrom(first);
      const costs = stage === null || !suits(stage) ? null : trial(stage);
      if (stage !== null && costs !== null) found.push({ stage, gain: gainOf(costs) });
    }
    return found;
  };
  const overfull = (w: number) => free[w] < 0;
  /** Moves experts off workers that are over their memory, at least cost, as far as the bytes go. */
  const moveOff = async () => {
    const relieves = ({ adds, drops }: Way) => drops.some((d) => overfull(d.worker)) && !adds.some((a) => overfull(a.worker));
    for (let moved = true; moved && !signal?.aborted && free.some((f) => f < 0); ) {
      moved = false;
      const found = await trialsOf(wanted(), relieves);
      found.sort((a, b) => b.gain - a.gain);
      for (const { stage } of found) {
        if (!relieves(stage) || !applies(stage) || bytes + stage.adds.length * expertBytes > bytesMax) continue;
        const costs = trial(stage);
        if (costs === null) continue;
        commit(stage, costs);
        moved = true;
      }
    }
  };

  /** Goes to the target in one stage, if that is no worse and fits the budget. Says whether it did. */
  const allThatIsLeft = (): boolean => {
    const adds = wanted();
    if (adds.length === 0 || bytes + adds.length * expertBytes > bytesMax) return false;
    const drops = state.flatMap((layer, l) =>
      layer.flatMap((own, e) => own.filter((w) => !target.replicas[l][e].includes(w)).map((worker) => ({ layer: l, expert: e, worker }))),
    );
    const costs = trial({ adds, drops });
    if (costs === null || gainOf(costs) < 0) return false;
    commit({ adds, drops }, costs);
    return true;
  };

  dropSurplus((c) => overfull(c.worker));
  await moveOff();
  for (let left = wanted(); left.length > 0 && !signal?.aborted; left = wanted()) {
    const found = await trialsOf(left, () => true);
    found.sort((a, b) => b.gain / b.stage.adds.length - a.gain / a.stage.adds.length);
    const dirty = new Set<number>();
    let committed = 0;
    for (const { stage } of found) {
      // Stages found together may touch the same layers or slots: each is tried again as things stand.
      const layers = [...stage.adds, ...stage.drops].map((c) => c.layer);
      if (layers.some((l) => dirty.has(l)) || bytes + stage.adds.length * expertBytes > bytesMax) continue;
      if (!applies(stage)) continue;
      const costs = trial(stage);
      if (costs === null || gainOf(costs) < 0) continue;
      commit(stage, costs);
      for (const l of layers) dirty.add(l);
      committed++;
    }
    if (committed > 0 || signal?.aborted) continue;
    // Nothing improves alone.
    allThatIsLeft();
    break;
  }
  // An expert that has as many as the target gives it keeps them: where bytes ran out they stand in for those that were not copied.
  const most = replicaCount(target);
  const settled = stages.length;
  dropSurplus((c) => held > most && state[c.layer][c.expert].length > target.replicas[c.layer][c.expert].length);
  // The target may have been worse only than what had more replicas.
  if (stages.length > settled && !signal?.aborted && allThatIsLeft()) {
    const [first, last] = stages.splice(settled);
    stages.push({ ...last, drops: [...first.drops, ...last.drops] });
  }
  const over = free.findIndex((f) => f < 0);
  if (over >= 0)
    throw new SwitchyardError(
      'bad_plan',
      `worker ${over} (${cluster.workers[over].name}) holds ${cluster.slotsOf[over] - free[over]} experts and its memory ${cluster.slotsOf[over]}: no part of the way that moves at most ${bytesMax} bytes fits`,
      { param: 'bytesMax' },
    );
  return { stages, reached: { ...target, replicas: state }, bytes, remoteNodesBefore, remoteNodesAfter: sum() };
}

/** Remote visits of all tokens in one layer under given holders, homes fixed. */
function layerPricer(
  trace: RoutingTrace,
  cluster: Cluster,
  homes: Int32Array,
): (layer: number, replicas: readonly (readonly number[])[]) => number {
  const layers = trace.moeLayers.length;
  const cover = new NodeCover();
  if (cluster.nodes > maskNodesMax) return (l, replicas) => visitsByRule(trace, l, replicas, cluster, homes);
  return (l, replicas) => {
    const masks = holderMasks(replicas, cluster.nodeOf);
    let visits = 0;
    for (let t = 0; t < trace.tokens; t++) {
      const homeBit = 1 << cluster.nodeOf[homes[trace.sequenceOf[t]]];
      const base = (t * layers + l) * trace.topK;
      let uncovered = 0;
      for (let k = 0; k < trace.topK; k++) {
        const e = trace.ids[base + k];
        if (e !== NO_EXPERT && (masks[e] & homeBit) === 0) cover.masks[uncovered++] = masks[e];
      }
      if (uncovered > 0) visits += popcount(cover.solveFirst(uncovered));
    }
    return visits;
  };
}

/** The same where nodes are too many for a mask: by the router's rule, whose choice of nodes knows no loads. */
function visitsByRule(
  trace: RoutingTrace,
  layer: number,
  replicas: readonly (readonly number[])[],
  { nodeOf, workers }: Cluster,
  homes: Int32Array,
): number {
  const experts = new Int32Array(trace.topK);
  const chosen = new Int32Array(trace.topK);
  const load = new Float64Array(workers.length);
  let visits = 0;
  for (let t = 0; t < trace.tokens; t++) {
    const base = (t * trace.moeLayers.length + layer) * trace.topK;
    let count = 0;
    for (let k = 0; k < trace.topK; k++) if (trace.ids[base + k] !== NO_EXPERT) experts[count++] = trace.ids[base + k];
    const home = homes[trace.sequenceOf[t]];
    chooseReplicas(experts, count, replicas, nodeOf, home, load, chosen);
    const visited = new Set<number>();
    for (let k = 0; k < count; k++) if (nodeOf[chosen[k]] !== nodeOf[home]) visited.add(nodeOf[chosen[k]]);
    visits += visited.size;
  }
  return visits;
}
