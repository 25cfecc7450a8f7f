import { setImmediate as nextTurn } from 'node:timers/promises';
import { type Plan, SwitchyardError } from '@switchyard/proto';
import type { Cluster } from '../cluster/cluster.ts';
import type { RoutingTrace } from '../trace/routing-trace.ts';
import { gainMin, takeBestStages } from './best-stages.ts';
import { type Change, MoveState, type Way } from './move-state.ts';
import { checkSameShape, replicaCount } from './moves.ts';
import { layerCosts, type StagePrices, visitsOnly } from './stage-price.ts';

/**
 * One step of a migration: everything in it switches together. The plan after it is valid, and better than the one before if it copies anything, unless memory or the
 * number of replicas asks for it (see `stageMove`).
 */
export interface Stage {
  adds: Change[];
  drops: Change[];
  /** Remote nodes per token and layer after the stage, on the trace it was planned with. */
  remoteNodes: number;
  /** Bytes copied in this stage. */
  bytes: number;
}

export interface StagedMove {
  stages: Stage[];
  /** The plan after the last stage: the target, unless bytes ran out or the rest gains nothing. It fits the memory, and has no more replicas than the target. */
  reached: Plan;
  bytes: number;
  remoteNodesBefore: number;
  remoteNodesAfter: number;
}

/** So many are priced between two turns of the event loop, a millisecond each where layers are large: signals are heard meanwhile. */
const trialsPerTurn = 32;

/**
 * Splits the way from one plan to another into small stages: a copy, with whatever it displaces (a worker's memory is full, so something leaves it; if that was the
 * only replica it needs a place first, and so on until a free slot or the first worker is reached). Stages that save most per byte go first; those that gain nothing
 * wait, and what never gains alone goes together in one last stage if that gains, or not at all.
 *
 * With `bytesMax` this is re-planning under a budget: the best prefix that fits.
 *
 * Two things go before "no worse". Where the current plan holds more than a worker's memory, replicas leave that worker first. And what is reached has no more
 * replicas than the target: dropping costs no bytes, so those that the target does not have are dropped in the end, the least missed first. Neither is left undone
 * when time is up.
 *
 * @param cluster with its memory as it is: a limit that was set for the target's sake is not one that the stages on the way must keep
 * @param homes home worker of each sequence of the trace, held fixed
 * @param options.prices what stages are judged by; by default visits, by the price of their links. With more than 32 nodes it is their number, whatever the prices
 * @param options.signal aborted, or `stop` true: what has been staged until then is the result, and the best of what was looked at where nothing has
 * @throws bad_plan where a worker holds more than its memory and `bytesMax` does not suffice to change that
 */
export async function stageMove(
  current: Plan,
  target: Plan,
  cluster: Cluster,
  trace: RoutingTrace,
  homes: Int32Array,
  options: { expertBytes: number; bytesMax?: number; prices?: StagePrices; signal?: AbortSignal; stop?: () => boolean },
): Promise<StagedMove> {
  checkSameShape(current, target);
  const { expertBytes, bytesMax = Infinity, prices = visitsOnly, signal, stop = () => false } = options;
  const costs = layerCosts(trace, cluster, homes, current.replicas, prices);
  const state = new MoveState(current.replicas, target.replicas, cluster.slotsOf, costs);
  const { free, replicas } = state;
  const perToken = trace.tokens * costs.length;
  const remoteNodes = () => costs.reduce((sum, layer) => sum + layer.remoteNodes, 0) / perToken;
  const remoteNodesBefore = remoteNodes();
  const stages: Stage[] = [];
  let bytes = 0;
  let held = replicaCount(current);
  let priced = 0;

  const ended = () => signal?.aborted === true || stop();
  const fits = ({ adds }: Way) => bytes + adds.length * expertBytes <= bytesMax;
  const overfull = (w: number) => free[w] < 0;
  const commit = (way: Way) => {
    state.commit(way);
    bytes += way.adds.length * expertBytes;
    held += way.adds.length - way.drops.length;
    stages.push({ ...way, remoteNodes: remoteNodes(), bytes: way.adds.length * expertBytes });
  };
  const turn = async () => {
    if (++priced % trialsPerTurn === 0) await nextTurn();
  };

  /** Drops replicas that the target does not have while `wants` them gone, the least missed first, as one stage. */
  const dropSurplus = async (wants: (c: Change) => boolean) => {
    const found: { way: Way; gain: number }[] = [];
    const spare = (c: Change) => replicas[c.layer][c.expert].length > 1 && wants(c);
    for (const drop of state.unwanted()) {
      if (!spare(drop)) continue;
      await turn();
      const way = { adds: [], drops: [drop] };
      // When time is up they go in any order.
      const gain = ended() ? -Infinity : state.gainOf(way);
      if (gain !== null) found.push({ way, gain });
    }
    found.sort((a, b) => (a.gain === b.gain ? 0 : b.gain - a.gain));
    const first = stages.length;
    for (const { way } of found) if (spare(way.drops[0])) commit(way);
    const drops = stages.splice(first).flatMap((stage) => stage.drops);
    if (drops.length > 0) stages.push({ adds: [], drops, remoteNodes: remoteNodes(), bytes: 0 });
  };

  /** Moves experts off workers that are over their memory, at least cost, as far as the bytes go. */
  const moveOff = async () => {
    const relieves = ({ adds, drops }: Way) => drops.some((d) => overfull(d.worker)) && !adds.some((a) => overfull(a.worker));
    for (let moved = true; moved && free.some((f) => f < 0); ) {
      moved = false;
      const found: { way: Way; gain: number }[] = [];
      for (const first of state.wanted()) {
        await turn();
        const way = state.chainFrom(first);
        const gain = way === null || !relieves(way) ? null : state.gainOf(way);
        if (way !== null && gain !== null) found.push({ way, gain });
      }
      found.sort((a, b) => b.gain - a.gain);
      for (const { way } of found) {
        if (!relieves(way) || !state.applies(way) || !fits(way) || state.gainOf(way) === null) continue;
        commit(way);
        moved = true;
      }
    }
  };

  /** Goes to the target in one stage, if that gains and fits the budget. Says whether it did. */
  const allThatIsLeft = (): boolean => {
    const way = { adds: state.wanted(), drops: state.unwanted() };
    if (way.adds.length === 0 || !fits(way) || (state.gainOf(way) ?? 0) < gainMin) return false;
    commit(way);
    return true;
  };

  await dropSurplus((c) => overfull(c.worker));
  await moveOff();
  await takeBestStages(state, { turn, ended, fits, commit });
  if (!ended()) allThatIsLeft();
  // An expert that has as many as the target gives it keeps them: where bytes ran out they stand in for those that were not copied.
  const most = replicaCount(target);
  const settled = stages.length;
  await dropSurplus((c) => held > most && replicas[c.layer][c.expert].length > target.replicas[c.layer][c.expert].length);
  // The target may have been worse only than what had more replicas.
  if (stages.length > settled && !ended() && allThatIsLeft()) {
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
  return { stages, reached: { ...target, replicas }, bytes, remoteNodesBefore, remoteNodesAfter: remoteNodes() };
}
