import { setImmediate as nextTurn } from 'node:timers/promises';
import {
  type Cluster,
  chooseHomes,
  clusterOf,
  describeInTurns,
  diffPlans,
  matchLayers,
  nodeMasks,
  type Placement,
  type RoutingTrace,
  relabelToMatch,
  stageMove,
  thinTokens,
} from '@switchyard/placement';
import type { Plan, Topology } from '@switchyard/proto';
import { CommandFailure, exitStatus } from '../failure.ts';
import type { PlaceFlags } from './place-action.ts';

/** Part of a deadline that the search has where parts of the way are chosen after it. */
const searchShare = 0.6;

/** A budget of bytes starts from the plan in force, so what is about other starts is refused, not left aside. */
export function refuseForBudget({ current, model, starts, robust }: PlaceFlags, given: readonly string[]): void {
  const refuse = (why: string) => new CommandFailure(why, { status: exitStatus.usage });
  if (current === undefined) throw refuse('--budget-bytes counts from the plan in force: it needs --current');
  if (model === 'chain')
    throw refuse('--budget-bytes needs --model fan-out or home-rank: what part of the way is worth is not known of the chain model');
  if (robust.kind !== 'mean')
    throw refuse(
      `--robust ${robust.kind} and --budget-bytes exclude each other: what part of the way is worth is the mean over all tokens`,
    );
  for (const option of starts > 1 ? ['--starts', '--anneal', '--max-r'] : ['--anneal', '--max-r'])
    if (given.includes(option)) throw refuse(`${option} and --budget-bytes exclude each other: the search starts from the plan in force`);
}

/** The deadline of the search. */
export function searchTime({ deadline, budgetBytes }: PlaceFlags): { deadline?: number } {
  return deadline === undefined || budgetBytes === undefined ? {} : { deadline: searchShare * deadline };
}

/** Visits that a row above its fair share is worth where the stages at the search's price end above the limit: as nodes that stand out are relieved. */
const dearPeakPrice = 8;

/** Workers of a node up to which layers are matched one by one: the time grows with their cube. */
const matchedWorkersMax = 128;

/** Nodes up to which names are matched unasked: of more it takes more than seconds. */
const namedUnaskedMax = 256;

/**
 * The plan under the names with which least has to move from what is now; of models whose tokens do not stay on a worker, layer by layer. The plan itself where names
 * change nothing.
 */
export function named(plan: Plan, now: Plan, cluster: Cluster, { current, model }: PlaceFlags): Plan {
  if (current === undefined && cluster.nodes > namedUnaskedMax) return plan;
  const relabelled = relabelToMatch(plan, now, cluster).plan;
  const most = cluster.nodeOf.reduce((counts, n) => counts.set(n, 1 + (counts.get(n) ?? 0)), new Map<number, number>());
  const matched = model === 'chain' || Math.max(...most.values()) > matchedWorkersMax ? relabelled : matchLayers(relabelled, now, cluster);
  return diffPlans(plan, matched, 1).bytes === 0 ? plan : matched;
}

/** Within a budget of bytes the best part of the way to a plan; without one the plan. */
export async function near(
  placed: Placement,
  now: Plan,
  trace: RoutingTrace,
  topology: Topology,
  flags: PlaceFlags,
  until: { signal: AbortSignal; stop: () => boolean },
): Promise<Placement> {
  const { budgetBytes } = flags;
  if (budgetBytes === undefined) return placed;
  const cluster = clusterOf(topology);
  const { plan } = placed;
  const sample = thinTokens(trace, 4000);
  const homes = chooseHomes(sample, nodeMasks(plan, cluster), cluster, { kind: 'whole-sequence' }, flags.homeTolerance);
  const ended = () => until.signal.aborted || until.stop();
  const scored = (next: Plan, stopped: boolean) => {
    const end = { homes: null, peakPrice: placed.peakPrice, stopped };
    const whole = { ...next, provenance: plan.provenance };
    return describeInTurns(whole, placed.cluster, trace, flags.homeTolerance, end, { stop: ended, pause: nextTurn });
  };
  const partAt = async (peak: number) => {
    const { reached } = await stageMove(now, plan, cluster, sample, homes, {
      expertBytes: topology.expertBytes,
      bytesMax: budgetBytes,
      prices: { visit: flags.model === 'fan-out' ? 1 : 0, remoteRow: 1, peak },
      ...until,
    });
    return scored(reached, placed.stopped || ended());
  };
  // What the search paid for peaks, stages do too.
  let best = await partAt(placed.peakPrice ?? 1);
  const take = (other: Placement) => {
    if (other.score.nodePeakMean < best.score.nodePeakMean) best = other;
  };
  const above = () => best.score.nodePeakMean > flags.peak;
  if (above() && !ended()) {
    const dearer = await partAt(dearPeakPrice);
    if (!ended()) take(dearer);
  }
  // Stages that gain nothing were left out, and the limit may ask for them.
  if (above() && !ended() && diffPlans(now, plan, topology.expertBytes).bytes <= budgetBytes) {
    // A score of a part of the tokens has higher peaks.
    const onAll = placed.score.tokens === trace.tokens;
    const whole = onAll ? { ...placed, stopped: best.stopped } : await scored(plan, best.stopped);
    if (!ended()) take(whole);
  }
  return best;
}
