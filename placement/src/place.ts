import { setImmediate as nextTurn } from 'node:timers/promises';
import { type Plan, SwitchyardError, type Topology } from '@switchyard/proto';
import {
  type Cluster,
  clusterOf,
  inNodeGroups,
  limitSlots,
  limitWorkers,
  nodeSlots,
  nodeSpeedShares,
  withRoomFor,
} from './cluster/cluster.ts';
import { maskNodesMax, popcount } from './cluster/node-set.ts';
import { describeInTurns, nodeMasks, type Placement, type SearchEnd } from './describe.ts';
import { type Random, seededRandom } from './random.ts';
import { checkSameShape } from './replan/moves.ts';
import { spreadOverWorkers } from './solve/affinity.ts';
import { annealed } from './solve/annealing.ts';
import { bestOfRounds } from './solve/best-seen.ts';
import { FanOutSearch, type FanOutSearchOptions } from './solve/fan-out-search.ts';
import { placeInsideNodes, placeInsideNodesSteps } from './solve/inside-nodes.ts';
import { keepWorkers } from './solve/kept-workers.ts';
import { onAllTokens } from './solve/on-all-tokens.ts';
import { polish } from './solve/polish.ts';
import type { Robustness } from './solve/robust.ts';
import { reliefPrice, robustly } from './solve/robust-rounds.ts';
import { clusterSequences, sequenceUsage } from './solve/sequence-clusters.ts';
import { placeChain } from './solve/two-level-chain.ts';
import { placeWholeGroups } from './solve/whole-groups.ts';
import { runInTurns, runThrough, type Turns } from './steps.ts';
import type { LoadMatrix } from './trace/load-matrix.ts';
import { histogramsOf } from './trace/pattern-histogram.ts';
import type { RoutingTrace } from './trace/routing-trace.ts';
import { thinPatterns } from './trace/sample.ts';

/** The traffic that a plan is made for. */
export type TrafficModel = 'fan-out' | 'home-rank' | 'chain';

export interface PlaceOptions {
  model: TrafficModel;
  /** Memory for replicas, as a share of one copy of everything; bounded by the topology's memory. Infinity: all the memory there is. */
  replicas: number;
  /** Same seed, same plan. */
  seed: number;
  /** Peak over mean rows of the nodes, mean over layers, that the search aims to stay below. */
  peakMeanMax: number;
  /** Each home node's tokens stay within this of its share. */
  homeTolerance: number;
  /** What one row that leaves its home costs beside the visit itself, in visits (fan-out model). */
  remoteRowPrice: number;
  /** Different choices per layer that the search looks at: tokens that chose the same experts count as one. Scores always use all tokens given. */
  sampleTokens: number;
  /** Independent starts; the best is refined. */
  starts: number;
  /**
   * Changes that simulated annealing proposes after the starts, per expert that memory holds; 0: none. A hundred are quick, thousands find what descents do not. Not for
   * the chain model.
   */
  annealing: number;
  /** Remote nodes per token and layer to end at when annealing: what may be spent on them is, and as much as can be is served at home. Infinity: prices as given. */
  remoteNodesMax: number;
  /** Small instances end with integer programs of at most this many columns; 0: none do. Not for the chain model. */
  programColumns: number;
  /** Not for the chain model. */
  robust: Robustness;
  /** Every group of this many (consecutive experts of a layer) on one node, single extra copies apart; null: experts go where they like. */
  wholeGroups: number | null;
  /**
   * Start from this plan, and change only what pays: the result is no worse within the limit of peaks, where the plan fits the memory and has no more replicas than are
   * asked for. Not for the chain model, and without annealing.
   */
  warmStart: Plan | null;
  /** Rounds of improvement after a warm start, at most; they end where they gain nothing. */
  warmRounds: number;
  /** Gives equal workers and nodes other names, or none, before the plan is scored: what is moved to a plan in force depends on them. Returns the very plan where none change. */
  rename: (plan: Plan) => Plan;
  /** Milliseconds on any clock; with `deadlineMs` the search ends by then with its best plan. */
  now: (() => number) | null;
  deadlineMs: number;
  signal: AbortSignal | null;
  onProgress: (progress: Progress) => void;
}

export interface Progress {
  stage: string;
  /** Of the best plan so far: remote nodes per token and layer, on the tokens that the search looks at; for `chain`, the share of transitions that leave. */
  incumbent: number;
}

export const defaultPlaceOptions: PlaceOptions = {
  model: 'fan-out',
  replicas: 0.25,
  seed: 1,
  peakMeanMax: 1.12,
  homeTolerance: 0.05,
  remoteRowPrice: 1,
  sampleTokens: 12_000,
  starts: 2,
  annealing: 0,
  remoteNodesMax: Infinity,
  programColumns: 400,
  robust: { kind: 'mean' },
  wholeGroups: null,
  warmStart: null,
  warmRounds: 3,
  rename: (plan) => plan,
  now: null,
  deadlineMs: Infinity,
  signal: null,
  onProgress: () => {},
};

/**
 * Decides where every expert and replica lives: nodes first, then workers inside each node. A pure function of (trace, topology, options): it reads no clock but
 * `now`, and gives the same plan for the same seed unless a deadline or the signal cuts the search short, when it returns its best plan so far.
 *
 * @throws bad_plan where an option is out of its range, the trace is empty, the experts do not fit the memory, groups that are to stay whole do not, or the warm start
 * is a plan of other layers, experts or workers
 */
export async function place(trace: RoutingTrace, topology: Topology, options: Partial<PlaceOptions> = {}): Promise<Placement> {
  const asked = { ...defaultPlaceOptions, ...options };
  checkOptions(asked);
  let incumbent = 0;
  const onProgress = (progress: Progress) => {
    incumbent = progress.incumbent;
    asked.onProgress(progress);
  };
  const o = { ...asked, onProgress };
  if (trace.tokens === 0) throw new SwitchyardError('bad_plan', 'the trace has 0 tokens, must be at least 1', { param: 'trace' });
  const layers = trace.moeLayers.length;
  const copies = layers * trace.experts;
  const whole = limitWorkers(clusterOf(topology), copies);
  // Whole groups need room that a limit per worker may split.
  const grouped = o.wholeGroups !== null && whole.nodes > 1;
  const copiesMax = Math.floor(copies * (1 + o.replicas) + 1e-9);
  const limited = grouped ? whole : limitSlots(whole, copiesMax);
  checkRoom(limited, layers, trace.experts);
  if (o.warmStart !== null) checkSameShape(o.warmStart, { model: trace, workers: limited.workers });
  const cluster = o.warmStart === null ? limited : withRoomFor(heldBy(o.warmStart), limited, whole);
  const view = inNodeGroups(cluster);
  const stop = () => o.signal?.aborted === true || (o.now !== null && o.now() >= o.deadlineMs);
  const turns = (stage: string): Turns => ({
    stop,
    pause: () => {
      asked.onProgress({ stage, incumbent });
      return nextTurn();
    },
  });
  const random = seededRandom(o.seed);
  const sample = thinPatterns(trace, o.sampleTokens);
  const found: Found = grouped
    ? { replicas: await placeGroups(sample, cluster, o, o.wholeGroups!, random, stop), homes: null, peakPrice: null }
    : o.model === 'chain'
      ? { replicas: await placeChain(sample, view, { ...o, stop, pause: nextTurn }), homes: null, peakPrice: null }
      : await placeForHomes(trace, sample, view, { slots: nodeSlots(inNodeGroups(whole)), copiesMax }, o, random, stop, turns);
  const made = planOf(trace, cluster, found.replicas, {
    method: o.model,
    seed: o.seed,
    replicas: o.replicas,
    peakMeanMax: o.peakMeanMax,
    homeTolerance: o.homeTolerance,
    remoteRowPrice: o.remoteRowPrice,
    sampleTokens: sample.tokens,
    ...(o.wholeGroups === null ? {} : { wholeGroups: o.wholeGroups }),
  });
  // What is left decides nothing of the plan.
  const stopped = stop();
  const plan = o.rename(made);
  const end = { homes: plan === made ? found.homes : null, peakPrice: found.peakPrice, stopped };
  return describeInTurns(plan, cluster, trace, o.homeTolerance, end, turns('score'));
}

/** Experts that each worker holds, (workers). */
function heldBy({ replicas, workers }: Plan): Int32Array {
  const held = new Int32Array(workers.length);
  for (const layer of replicas) for (const own of layer) for (const w of own) held[w]++;
  return held;
}

function within(field: string, value: number, min: number, max = Infinity): void {
  if (!(value >= min && value <= max))
    throw new SwitchyardError('bad_plan', `${field} is ${value}, must be in ${min}..${max}`, { param: field });
}

/** What makes of a search nothing but a wrong plan, or none. NaN is in no range. */
function checkOptions(o: PlaceOptions): void {
  within('replicas', o.replicas, 0);
  within('seed', o.seed, 0, Number.MAX_SAFE_INTEGER);
  within('peakMeanMax', o.peakMeanMax, 1);
  within('homeTolerance', o.homeTolerance, 0);
  within('remoteRowPrice', o.remoteRowPrice, 0, 1e6);
  within('sampleTokens', o.sampleTokens, 1);
  within('starts', o.starts, 1);
  within('annealing', o.annealing, 0, 1e9);
  within('remoteNodesMax', o.remoteNodesMax, 1e-6);
  within('programColumns', o.programColumns, 0);
  within('warmRounds', o.warmRounds, 0, 100);
  const refuse = (param: string, message: string): never => {
    throw new SwitchyardError('bad_plan', message, { param });
  };
  if (o.warmStart !== null && o.annealing > 0) refuse('annealing', `annealing is ${o.annealing}, must be 0 with a warm start`);
  if (o.remoteNodesMax !== Infinity && o.annealing === 0)
    refuse('remoteNodesMax', `remoteNodesMax is ${o.remoteNodesMax}, must be Infinity without annealing`);
  if (o.remoteNodesMax !== Infinity && o.model !== 'fan-out')
    refuse('remoteNodesMax', `remoteNodesMax is ${o.remoteNodesMax}, must be Infinity with the traffic model ${o.model}`);
  if (o.model === 'chain') {
    if (o.warmStart !== null) refuse('warmStart', 'there is a warm start, must be none with the traffic model chain');
    if (o.annealing > 0) refuse('annealing', `annealing is ${o.annealing}, must be 0 with the traffic model chain`);
    if (o.robust.kind !== 'mean') refuse('robust', `robust is ${o.robust.kind}, must be mean with the traffic model chain`);
  }
  if (o.robust.kind === 'cvar') within('robust.share', o.robust.share, 1e-6, 1);
}

function checkRoom(cluster: Cluster, layers: number, experts: number): void {
  const room = cluster.slotsOf.reduce((a, b) => a + b, 0);
  if (room < layers * experts)
    throw new SwitchyardError(
      'bad_plan',
      `the workers' memory holds ${room} experts, the model has ${layers * experts} (${layers} layers x ${experts})`,
      { param: 'expertMemoryBytes' },
    );
}

/**
 * Plans from loads alone: what EPLB does, better packed. One node level; every worker counts alike but for its speed and memory.
 *
 * @param options.stop asked between steps: true ends the search with what it has
 * @param options.onLayer told how many layers are done; others have their turn then
 * @throws bad_plan where `replicas` is below 0, or the experts do not fit the memory
 */
export async function placeLoads(
  loads: LoadMatrix,
  topology: Topology,
  options: { replicas: number; seed: number; effort?: number; model?: string; stop?: () => boolean; onLayer?: (done: number) => void },
): Promise<Plan> {
  within('replicas', options.replicas, 0);
  const copies = loads.layers * loads.experts;
  const cluster = limitSlots(limitWorkers(clusterOf(topology), copies), Math.floor(copies * (1 + options.replicas) + 1e-9));
  checkRoom(cluster, loads.layers, loads.experts);
  const flat: Cluster = {
    ...cluster,
    nodes: 1,
    nodeNames: ['all'],
    nodeOf: new Int32Array(cluster.workers.length),
    linkPrice: null,
    workers: cluster.workers.map((w) => ({ ...w, node: 0 })),
  };
  const masks = Array.from({ length: loads.layers }, () => new Int32Array(loads.experts).fill(1));
  const served = masks.map((_, l) => loads.counts.slice(l * loads.experts, (l + 1) * loads.experts));
  const never = () => false;
  const steps = placeInsideNodesSteps(masks, served, flat, seededRandom(options.seed), options.effort ?? 1000, options.stop ?? never);
  let done = 0;
  const pause = () => {
    options.onLayer?.(++done);
    return nextTurn();
  };
  // A stop leaves less to be tried in the layers to come, but all of them get their places.
  const replicas = (await runInTurns(steps, { stop: never, pause }))!;
  const moeLayers = loads.moeLayers ?? masks.map((_, l) => l);
  const shape = { model: options.model ?? 'unknown', moeLayers, experts: loads.experts };
  return planOf(shape, cluster, replicas, { method: 'load', seed: options.seed, replicas: options.replicas });
}

export function planOf(
  model: { model: string; modelType?: string; moeLayers: number[]; experts: number },
  cluster: Cluster,
  replicas: number[][][],
  provenance: Record<string, unknown>,
): Plan {
  return {
    format: 'switchyard-plan',
    version: 1,
    model: { type: model.modelType ?? model.model, moeLayers: model.moeLayers, experts: model.experts },
    workers: cluster.workers.map(({ name, node }) => ({ name, node })),
    replicas,
    provenance,
  };
}

/** What a search ends with. */
interface Found extends Omit<SearchEnd, 'stopped'> {
  /** Workers of each expert, ascending, [layer][expert]. */
  replicas: number[][][];
}

async function placeForHomes(
  trace: RoutingTrace,
  sample: RoutingTrace,
  cluster: Cluster,
  memory: { slots: Int32Array; copiesMax: number },
  o: PlaceOptions,
  random: Random,
  stop: () => boolean,
  turns: (stage: string) => Turns,
): Promise<Found> {
  const copies = sample.moeLayers.length * sample.experts;
  const room = Math.min(
    memory.copiesMax,
    cluster.slotsOf.reduce((a, b) => a + b, 0),
  );
  const workersPerNode = cluster.workers.length / cluster.nodes;
  // Some spare memory stays for second copies inside a node, where several workers must share its rows evenly.
  const kept = workersPerNode > 1 ? 0.2 : 0;
  const across = Math.max(copies, Math.ceil(room - kept * (room - copies)));
  const warm = o.warmStart === null ? null : nodeMasks(o.warmStart, cluster);
  const { slots, copiesMax } = slotsFor(warm, cluster, across, room);
  const common = searchOptions(cluster, o, stop);
  const { balance } = common;
  const base: FanOutSearchOptions = { ...common, slots, copiesMax, memory: memory.slots, histograms: histogramsOf(sample) };
  const scale = sample.tokens * sample.moeLayers.length;
  /** @param gainMin part of its merit that a round must gain not to be the last */
  const refine = (of: FanOutSearch, roundsMax: number, gainMin: number, passes: number, share: number, settled = () => true) =>
    bestOfRounds(of, roundsMax, async () => {
      const before = of.merit();
      await of.converge(passes, share);
      o.onProgress({ stage: 'refine', incumbent: of.remoteNodes() / scale });
      return before - of.merit() <= gainMin * before && settled();
    });
  let search: FanOutSearch;
  if (cluster.nodes === 1) {
    search = new FanOutSearch(sample, new Int32Array(sample.sequences.length), base);
    search.load(sample.moeLayers.map(() => new Int32Array(sample.experts).fill(1)));
  } else if (warm !== null) {
    // The plan is near a local optimum already: look at the most promising changes of each layer only.
    search = new FanOutSearch(sample, null, { ...base, candidatesMax: 40 });
    runThrough(search.settleSteps(warm));
    search.fitMemory();
    search.startPeakPrice();
    await refine(search, o.warmRounds, warmGainMin, 1, 0, () => search.peaksSettled());
  } else {
    const tokens = sample.sequences.map((s) => s.tokens);
    const usage = sequenceUsage(sample);
    let best: FanOutSearch | null = null;
    for (let start = 0; start < o.starts && (best === null || !stop()); start++) {
      const next = new FanOutSearch(sample, await clusterSequences(usage, tokens, balance, random, base), base);
      next.placeSingles();
      next.addReplicas();
      await next.converge(4, 1e-3);
      if (best === null || next.merit() < best.merit()) best = next;
      o.onProgress({ stage: `start ${start + 1} of ${o.starts}`, incumbent: best.remoteNodes() / scale });
    }
    search = best!;
    await refine(search, 12, 1e-4, 4, 1e-4);
    if (o.annealing > 0 && !stop()) {
      await annealed(search, {
        proposals: o.annealing * slots.reduce((a, b) => a + b, 0),
        remoteNodesMax: o.model === 'fan-out' ? o.remoteNodesMax : Infinity,
        random,
        onProgress: () => o.onProgress({ stage: 'anneal', incumbent: search.remoteNodes() / scale }),
      });
    }
  }
  if (cluster.nodes > 1 && !stop()) {
    const timeLeftMs = () => (o.now === null ? Infinity : Math.max(1, o.deadlineMs - o.now()));
    const effort = { columnsMax: o.programColumns, branchesMax, timeLeftMs, signal: o.signal };
    await polish(search, effort);
    const { peakPrice } = search.prices;
    // Peaks of small instances come in steps, and where none is just within the limit their price has risen far: programs look again at the one that searches begin with.
    if (peakPrice > 1 && !stop()) {
      search.prices.peakPrice = 1;
      await polish(search, effort);
      search.prices.peakPrice = peakPrice;
    }
  }
  if (o.robust.kind !== 'mean' && cluster.nodes > 1 && !stop())
    await robustly(sample, cluster, search, base, { ...o, counts: o.model === 'home-rank' ? 'rows' : 'visits' }, stop);
  search = await onAllTokens(trace, search, { ...base, prices: search.prices }, turns('all tokens'));
  // What more tokens than the search's have seen is relieved.
  if (search.trace === sample && (o.warmStart !== null || stop())) search.relieve(o.peakMeanMax, reliefPrice);
  const { masks, homeOf } = search.result();
  o.onProgress({ stage: 'inside the nodes', incumbent: search.remoteNodes() / (search.trace.tokens * search.layers.length) });
  const effort = workersPerNode === 1 ? 0 : Math.min(400, Math.ceil(200_000 / (sample.moeLayers.length * sample.experts)));
  const replicas =
    o.warmStart === null
      ? placeInsideNodes(masks, search.served(), cluster, random, effort, stop)
      : keepWorkers(masks, search.served(), cluster, o.warmStart.replicas, room, stop);
  const tokens = trace.sequences.map((s) => s.tokens);
  const homes = search.trace === trace ? spreadOverWorkers(homeOf, tokens, cluster) : null;
  return { replicas, homes, peakPrice: search.prices.peakPrice };
}

/** A round after a warm start that gains a smaller part is the last, where peaks are at their limit. */
const warmGainMin = 1e-3;

/**
 * Experts that each node may hold, and all nodes together: `across` in all, and what is held already, though it be in other parts.
 *
 * @param held nodes of every expert as bits, (layers) of (experts); null: nothing is held
 */
function slotsFor(
  held: readonly Int32Array[] | null,
  cluster: Cluster,
  across: number,
  most: number,
): { slots: Int32Array; copiesMax: number } {
  const part = nodeSlots(limitSlots(cluster, across));
  if (held === null) return { slots: part, copiesMax: Infinity };
  const holds = new Int32Array(cluster.nodes);
  let copies = 0;
  for (const layer of held)
    for (const mask of layer) {
      copies += popcount(mask);
      for (let n = 0; n < cluster.nodes; n++) holds[n] += (mask >>> n) & 1;
    }
  const memory = nodeSlots(cluster);
  return { slots: part.map((own, n) => Math.min(memory[n], Math.max(own, holds[n]))), copiesMax: Math.max(across, Math.min(most, copies)) };
}

/** Everything of a search over nodes but its memory. */
function searchOptions(cluster: Cluster, o: PlaceOptions, stop: () => boolean): Omit<FanOutSearchOptions, 'slots'> {
  const share = nodeSpeedShares(cluster);
  return {
    // The fit keeps a little inside the limits, so that sequences it has not seen stay within them too.
    balance: { share, tolerance: 0.9 * o.homeTolerance },
    prices: {
      peakPrice: 1,
      share,
      linkPrice: cluster.linkPrice,
      visitPrice: o.model === 'fan-out' ? 1 : 0,
      remoteRowPrice: o.model === 'fan-out' ? o.remoteRowPrice : 1,
    },
    peakMeanMax: o.peakMeanMax,
    sequenceWeight: null,
    stop,
    pause: nextTurn,
    candidatesMax: 500,
    onImproved: () => {},
  };
}

/** Whole groups, on a cluster whose memory is not limited to the replica budget. */
function placeGroups(
  sample: RoutingTrace,
  cluster: Cluster,
  o: PlaceOptions,
  groups: number,
  random: Random,
  stop: () => boolean,
): Promise<number[][][]> {
  const refuse = (what: string) => new SwitchyardError('bad_plan', `groups are kept whole only without ${what}`, { param: 'groups' });
  if (cluster.nodes > maskNodesMax) throw refuse(`more than ${maskNodesMax} nodes; there are ${cluster.nodes}`);
  if (o.model === 'chain') throw refuse('the traffic model chain');
  if (o.warmStart !== null) throw refuse('a warm start');
  if (o.robust.kind !== 'mean') throw refuse(`robust ${o.robust.kind}`);
  if (o.annealing > 0) throw refuse('annealing');
  const copies = sample.moeLayers.length * sample.experts;
  const memory = cluster.slotsOf.reduce((a, b) => a + b, 0);
  return placeWholeGroups(sample, cluster, {
    groups,
    extraCopies: Math.min(memory, Math.floor(copies * (1 + o.replicas) + 1e-9)) - copies,
    starts: o.starts,
    search: searchOptions(cluster, o, stop),
    random,
    onProgress: (stage, incumbent) => o.onProgress({ stage, incumbent }),
  });
}

/** Branches that one program may take. Programs of a few hundred columns end long before. */
const branchesMax = 500;
