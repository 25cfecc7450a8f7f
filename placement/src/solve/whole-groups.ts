import { setImmediate as nextTurn } from 'node:timers/promises';
import { SwitchyardError } from '@switchyard/proto';
import { type Cluster, nodeSlots } from '../cluster/cluster.ts';
import { popcount } from '../cluster/node-set.ts';
import type { Random } from '../random.ts';
import { NO_EXPERT, type RoutingTrace } from '../trace/routing-trace.ts';
import { bestOfRounds } from './best-seen.ts';
import { FanOutSearch, type FanOutSearchOptions } from './fan-out-search.ts';
import { placeInsideNodes } from './inside-nodes.ts';
import { clusterSequences, sequenceUsage } from './sequence-clusters.ts';

export interface WholeGroupsOptions {
  /** Groups of a layer: consecutive experts, all of one size. */
  groups: number;
  /** Second and further copies of single experts, all layers together. */
  extraCopies: number;
  starts: number;
  /** Everything of the search but its memory. */
  search: Omit<FanOutSearchOptions, 'slots'>;
  random: Random;
  onProgress: (stage: string, remoteNodesPerTokenLayer: number) => void;
}

/** Groups are few and large, so that balance lost at the start is not won back by moves: a node with two of a layer's groups is dear from the beginning. */
const groupPeakPrice = 20;

/** Rounds in which groups find their nodes. */
const groupRounds = 8;

/** Rounds of homes and extra copies in turn, after the groups have their nodes. */
const replicaRounds = 5;

/**
 * For models whose router keeps a token inside a few groups of experts: every group of a layer on one node, so that a token visits at most as many nodes as it has
 * groups. Groups find their nodes first, by the same search in which a group is one expert; then single experts get extra copies elsewhere; then experts their
 * workers. The groups' own copies never move, so what the first stage decides holds to the end.
 *
 * @param cluster with its memory as it is, not limited to a replica budget: whole groups need room that a limit per worker may split
 * @returns workers of each expert, ascending, [layer][expert]
 * @throws bad_plan where groups do not divide the experts or do not fit the nodes
 */
export async function placeWholeGroups(trace: RoutingTrace, cluster: Cluster, options: WholeGroupsOptions): Promise<number[][][]> {
  const { groups, extraCopies, random, onProgress, search: base } = options;
  const size = groupSize(trace, groups);
  const memory = nodeSlots(cluster);
  const scale = trace.tokens * trace.moeLayers.length;

  const coarse = groupTrace(trace, groups);
  const groupSlots = divide(
    coarse.moeLayers.length * groups,
    memory.map((slots) => Math.floor(slots / size)),
    memory,
  );
  if (groupSlots === null) {
    const room = memory.reduce((sum, slots) => sum + Math.floor(slots / size), 0);
    throw new SwitchyardError(
      'bad_plan',
      `groups are kept whole, and the nodes' memory holds ${room} groups of ${size} experts; the model has ${coarse.moeLayers.length * groups} (${coarse.moeLayers.length} layers x ${groups})`,
      { param: 'groups' },
    );
  }
  const tokens = coarse.sequences.map((s) => s.tokens);
  const usage = sequenceUsage(coarse);
  let best: FanOutSearch | null = null;
  for (let start = 0; start < options.starts && (best === null || !base.stop()); start++) {
    const next = new FanOutSearch(coarse, await clusterSequences(usage, tokens, base.balance, random, base), {
      ...base,
      slots: groupSlots,
      memory,
      prices: { ...base.prices, peakPrice: groupPeakPrice },
    });
    next.placeSingles();
    // Peaks of whole groups come in steps: a price that is moved towards the limit may pass the step before it.
    await bestOfRounds(next, groupRounds, async () => {
      const before = next.objective();
      await next.converge(1, 0);
      return before - next.objective() <= 1e-4 * before && next.peakMean() <= base.peakMeanMax;
    });
    if (best === null || next.merit() < best.merit()) best = next;
    onProgress(`groups, start ${start + 1} of ${options.starts}`, best.remoteNodes() / scale);
  }
  const { masks: groupMasks, homeOf } = best!.result();
  const held = groupMasks.map((layer) => Int32Array.from({ length: trace.experts }, (_, e) => layer[Math.floor(e / size)]));

  // Of the extra copies some stay for second copies inside a node, where several workers must share its rows evenly.
  const across = cluster.workers.length > cluster.nodes ? Math.floor(0.8 * extraCopies) : extraCopies;
  const fine = new FanOutSearch(trace, homeOf, { ...base, slots: slotsWithExtras(held, memory, across) });
  fine.load(held);
  await bestOfRounds(fine, replicaRounds, async (round) => {
    await nextTurn();
    // Homes follow the copies of the round before, and copies the homes.
    if (round > 0) await fine.reassignHomes();
    fine.tunePeakPrice();
    fine.load(held);
    fine.addReplicas(across);
    onProgress('copies beside the groups', fine.remoteNodes() / scale);
    return false;
  });
  const chosen = fine.result();
  const served = fine.served();
  const used = chosen.masks.reduce((sum, layer) => sum + layer.reduce((n, mask) => n + popcount(mask), 0), 0);
  const spare = extraCopies - (used - trace.moeLayers.length * trace.experts);
  const effort =
    cluster.workers.length === cluster.nodes ? 0 : Math.min(400, Math.ceil(200_000 / (trace.moeLayers.length * trace.experts)));
  return placeInsideNodes(chosen.masks, served, cluster, random, effort, base.stop, spare);
}

function groupSize({ experts }: RoutingTrace, groups: number): number {
  if (!Number.isInteger(groups) || groups < 1 || experts % groups !== 0)
    throw new SwitchyardError('bad_plan', `groups is ${groups}, must divide the ${experts} experts of a layer`, { param: 'groups' });
  return experts / groups;
}

/** The same tokens, as if a group were one expert. */
function groupTrace(trace: RoutingTrace, groups: number): RoutingTrace {
  const size = groupSize(trace, groups);
  const topK = Math.min(trace.topK, groups);
  const rows = trace.tokens * trace.moeLayers.length;
  const ids = new Uint16Array(rows * topK).fill(NO_EXPERT);
  for (let row = 0; row < rows; row++) {
    let count = 0;
    for (let k = 0; k < trace.topK; k++) {
      const expert = trace.ids[row * trace.topK + k];
      if (expert === NO_EXPERT) continue;
      const group = Math.floor(expert / size);
      if (!ids.subarray(row * topK, row * topK + count).includes(group)) ids[row * topK + count++] = group;
    }
  }
  return { ...trace, experts: groups, topK, ids };
}

/** `total` things over bins of the given sizes in proportion to `weight`, as evenly as integers allow; null where they do not fit. */
function divide(total: number, sizes: Int32Array, weight: Int32Array): Int32Array | null {
  const whole = Math.max(
    1,
    weight.reduce((a, b) => a + b, 0),
  );
  const part = Int32Array.from(sizes, (size, n) => Math.min(size, Math.floor((total * weight[n]) / whole)));
  for (let left = total - part.reduce((a, b) => a + b, 0); left > 0; left--) {
    let best = -1;
    const lack = (n: number) => (total * weight[n]) / whole - part[n];
    for (let n = 0; n < sizes.length; n++) if (part[n] < sizes[n] && (best < 0 || lack(n) > lack(best))) best = n;
    if (best < 0) return null;
    part[best]++;
  }
  return part;
}

/** What each node holds already, and its part of the extra copies by the memory that is left to it. */
function slotsWithExtras(held: readonly Int32Array[], memory: Int32Array, extraCopies: number): Int32Array {
  const slots = new Int32Array(memory.length);
  for (const layer of held) for (const mask of layer) slots[31 - Math.clz32(mask)]++;
  const free = memory.map((all, n) => all - slots[n]);
  const extras = divide(
    Math.min(
      extraCopies,
      free.reduce((a, b) => a + b, 0),
    ),
    free,
    free,
  )!;
  return slots.map((own, n) => own + extras[n]);
}
