import type { Topology } from '@switchyard/proto';
import { baselinePlan } from '../baselines/baselines.ts';
import { clusterOf } from '../cluster/cluster.ts';
import { defaultPlaceOptions, type PlaceOptions, place } from '../place.ts';
import { scoreFanOut } from '../score/fan-out-score.ts';
import { chooseHomes, spreadOverWorkers } from '../solve/affinity.ts';
import type { RoutingTrace } from '../trace/routing-trace.ts';
import { holdOut } from '../trace/sample.ts';

export interface WorthLevel {
  replicas: number;
  /** True if the deadline or the signal ended the search of this level: more may be possible. */
  stopped: boolean;
  /** On the sequences it was fitted to (an optimist's ceiling), and on held-out ones with homes chosen by whole sequences and by domain. */
  fitted: { remoteNodes: number; homeShare: number; peakMean: number };
  heldOut: { remoteNodes: number; homeShare: number; peakMean: number };
  heldOutByDomain: { remoteNodes: number; homeShare: number; peakMean: number };
}

export interface WorthReport {
  tokens: number;
  sequences: number;
  /** Sequences that plans were not made from and figures are measured on; 0: too few to hold any out, and all figures are of the whole trace. */
  heldOutSequences: number;
  /** Contiguous placement, homes in turn: what happens without a planner. */
  now: { remoteNodes: number; homeShare: number; peakMean: number };
  /** In the order asked for, as many as there was time for. */
  levels: WorthLevel[];
}

/** What placement and replicas could bring on this workload, before anything is changed. A thousand tokens of a few dozen sequences suffice for the picture. */
export async function worthIt(
  trace: RoutingTrace,
  topology: Topology,
  options: Partial<PlaceOptions> = {},
  levels: readonly number[] = [0, 0.125, 0.25, 0.5, 1],
): Promise<WorthReport> {
  const { now, deadlineMs, seed, homeTolerance } = { ...defaultPlaceOptions, ...options };
  const split = holdOut(trace, 0.3, seed);
  const enough = split.test.tokens > 0;
  const { train, test } = enough ? split : { train: trace, test: trace };
  const cluster = clusterOf(topology);
  const pick = (s: { remoteNodes: number; homeShare: number; peakMean: number }) => ({
    remoteNodes: s.remoteNodes,
    homeShare: s.homeShare,
    peakMean: s.peakMean,
  });
  const base = await baselinePlan('contiguous', trace, topology);
  const inTurn = spreadOverWorkers(
    test.sequences.map((_, s) => s % cluster.nodes),
    test.sequences.map((s) => s.tokens),
    cluster,
  );
  const report: WorthReport = {
    tokens: trace.tokens,
    sequences: trace.sequences.length,
    heldOutSequences: enough ? test.sequences.length : 0,
    now: pick(scoreFanOut(test, base.replicas, cluster, inTurn)),
    levels: [],
  };
  for (const replicas of levels) {
    if (options.signal?.aborted || (now !== null && now() >= deadlineMs)) break;
    const roomy: Topology = {
      ...topology,
      nodes: topology.nodes.map((n) => ({
        ...n,
        workers: n.workers.map((w) => ({ ...w, expertMemoryBytes: Math.max(w.expertMemoryBytes, 1e18) })),
      })),
    };
    const placed = await place(train, roomy, { ...options, replicas });
    const by = (predictor: Parameters<typeof chooseHomes>[3]) =>
      pick(
        scoreFanOut(test, placed.plan.replicas, placed.cluster, chooseHomes(test, placed.masks, placed.cluster, predictor, homeTolerance)),
      );
    report.levels.push({
      replicas,
      stopped: placed.stopped,
      fitted: pick(placed.score),
      heldOut: by({ kind: 'whole-sequence' }),
      heldOutByDomain: by({ kind: 'domain', affinity: placed.affinity }),
    });
  }
  return report;
}
