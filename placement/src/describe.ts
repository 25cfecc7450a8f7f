import type { Plan } from '@switchyard/proto';
import { type Cluster, inNodeGroups } from './cluster/cluster.ts';
import { holderMasks } from './cluster/node-set.ts';
import { homesOfSteps } from './report/homes-of.ts';
import { type FanOutScore, scoreFanOutSteps } from './score/fan-out-score.ts';
import { type Affinity, balanceHomes, chooseHomes, homePrices, learnAffinity, sequenceHomeCostsSteps } from './solve/affinity.ts';
import { runInTurns, runThrough, type Steps, type Turns } from './steps.ts';
import type { RoutingTrace } from './trace/routing-trace.ts';
import { tokensAfterEnd } from './trace/sample.ts';

export interface Placement {
  plan: Plan;
  /** Its memory is what the plan may use: with the replica budget, but for whole groups and for what workers held at a warm start. */
  cluster: Cluster;
  /** Nodes of every expert as bits, (layers) of (experts). */
  masks: Int32Array[];
  affinity: Affinity;
  /** Home worker of each of the given trace's sequences. */
  homes: Int32Array;
  /** On the trace it was given; on as many of its tokens as take seconds where time was up before. */
  score: FanOutScore;
  /** Of a row above its fair share on a layer's fullest node, in visits: at which the search ended; null where it had none. */
  peakPrice: number | null;
  /** True if the deadline or the signal ended the search. */
  stopped: boolean;
}

/** What is known of a plan before it is scored. */
export interface SearchEnd {
  /** Home worker of each sequence, (sequences); null: chosen when the plan is scored. */
  homes: Int32Array | null;
  peakPrice: number | null;
  stopped: boolean;
}

const noSearch: SearchEnd = { homes: null, peakPrice: null, stopped: false };

/** Scores a finished plan on a trace, and learns the affinity by which homes are chosen. */
export function describe(plan: Plan, cluster: Cluster, trace: RoutingTrace, homeTolerance: number, end = noSearch): Placement {
  return runThrough(describeSteps(plan, cluster, trace, homeTolerance, end));
}

/** The same in turns with others. Where time is up it goes by a part of the tokens, and sequences whose homes are not known get one by their domain. */
export async function describeInTurns(
  plan: Plan,
  cluster: Cluster,
  trace: RoutingTrace,
  homeTolerance: number,
  end: SearchEnd,
  turns: Turns,
): Promise<Placement> {
  const whole = await runInTurns(describeSteps(plan, cluster, trace, homeTolerance, end), turns);
  if (whole !== null) return whole;
  const few = tokensAfterEnd(trace);
  if (few === trace) return describe(plan, cluster, trace, homeTolerance, end);
  const seen = describe(plan, cluster, few, homeTolerance, { ...end, homes: null });
  const byDomain = () => chooseHomes(trace, seen.masks, cluster, { kind: 'domain', affinity: seen.affinity }, homeTolerance);
  return { ...seen, homes: end.homes ?? byDomain() };
}

function* describeSteps(plan: Plan, cluster: Cluster, trace: RoutingTrace, homeTolerance: number, end: SearchEnd): Steps<Placement> {
  const masks = nodeMasks(plan, cluster);
  const view = inNodeGroups(cluster);
  const cost = yield* sequenceHomeCostsSteps(trace, masks, view);
  const affinity = learnAffinity(trace, cost.visits, view.nodes);
  const homes = end.homes ?? balanceHomes(trace, homePrices(cost), view, homeTolerance);
  const score = yield* scoreFanOutSteps(trace, plan.replicas, cluster, homes);
  const provenance = {
    ...plan.provenance,
    homeCostPerTokenLayer: affinity,
    homes: yield* homesOfSteps(trace, plan, cluster),
    remoteNodes: score.remoteNodes,
    homeShare: score.homeShare,
    peakMean: score.peakMean,
  };
  return { plan: { ...plan, provenance }, cluster, masks, affinity, homes, score, peakPrice: end.peakPrice, stopped: end.stopped };
}

/** Nodes of every expert as bits, (layers) of (experts); of a cluster of more nodes than that, its groups of nodes (`inNodeGroups`). */
export function nodeMasks(plan: Plan, cluster: Cluster): Int32Array[] {
  const { nodeOf } = inNodeGroups(cluster);
  return plan.replicas.map((layer) => holderMasks(layer, nodeOf));
}
