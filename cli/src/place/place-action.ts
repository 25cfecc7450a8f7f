import { existsSync, realpathSync } from 'node:fs';
import path from 'node:path';
import {
  baselinePlan,
  type Certificate,
  type Cluster,
  chooseHomes,
  clusterOf,
  diffPlans,
  type Explanation,
  evenSplitLoads,
  explain,
  type HostModel,
  holdOut,
  type LoadMatrix,
  nodeMasks,
  nodeSlots,
  type ParetoPoint,
  paretoFront,
  paretoPage,
  peakOverMean,
  place,
  placeLoads,
  pointName,
  prove,
  proveFanOut,
  type RoutingTrace,
  scoreFanOut,
  spreadOverWorkers,
  thinTokens,
  tightenChain,
} from '@switchyard/placement';
import type { Plan, Topology } from '@switchyard/proto';
import { interruptSignal } from '../commands/interrupt.ts';
import { CommandFailure, exitStatus } from '../failure.ts';
import { checkOutput, type Output, writeOutputs } from '../terminal/output-file.ts';
import { counted, formatBytes } from '../terminal/quantity.ts';
import { textTable } from '../terminal/table.ts';
import { print } from '../terminal/visible.ts';
import { comparisonTable, figuresOf, measuredOn, scoreTokensMax, stepTimesBy } from './comparison.ts';
import { jsonLine, planOfShape, readCluster, readPlan, readTrace } from './files.ts';
import { named, near, refuseForBudget, searchTime } from './from-current.ts';
import { groupsToKeep, refuseGroups } from './groups.ts';
import type { GroupRule } from './option-values.ts';
import { ProgressLine } from './progress-line.ts';
import { placeOptions, refuseUnused, type SearchFlags } from './search-options.ts';

export interface PlaceFlags extends SearchFlags {
  trace: string;
  topology: string;
  /** Folder of the checkpoint that the trace is of. */
  modelDir?: string;
  replicas: number;
  groups?: GroupRule;
  current?: string;
  out: string;
  certificate?: string;
  /** Layers per window of the chain proof. */
  prove?: number;
  calibration?: string;
  pareto?: string;
  budgetBytes?: number;
  heldOut: number;
  dryRun?: boolean;
  json?: boolean;
}

/** @param given options that are not at their default, as they are written */
export async function placeAction(flags: PlaceFlags, given: readonly string[]): Promise<void> {
  refuseUnused(flags);
  const { topology, host } = readCluster(flags);
  refuseGroups(flags, topology.nodes.length);
  if (flags.prove !== undefined && flags.model !== 'chain')
    throw new CommandFailure('--prove windows=N proves the chain model: it needs --model chain', { status: exitStatus.usage });
  if (flags.budgetBytes !== undefined) refuseForBudget(flags, given);
  if (flags.dryRun !== true) {
    checkApart(flags);
    for (const option of ['out', 'certificate', 'pareto'] as const) checkOutput(flags[option], `--${option}`);
  }
  const current = flags.current === undefined ? null : readPlan(flags.current);
  const input = await readTrace(flags.trace, flags.tokensMax, flags);
  if (input.kind === 'loads') refuseForLoads(flags.trace, given);
  const { signal, release } = interruptSignal();
  try {
    if (input.kind === 'loads') await placeByLoads(input.loads, topology, flags, signal, input.modelType);
    else await placeByRouting(input.trace, topology, host, current, flags, signal);
    if (signal.aborted) process.exitCode = exitStatus.interrupted;
  } finally {
    release();
  }
}

/** No result is written over another, nor over what it is made from; the plan in force alone may be replaced. */
function checkApart(flags: PlaceFlags): void {
  const taken = new Map<string, string>();
  for (const option of ['trace', 'topology', 'calibration'] as const)
    if (flags[option] !== undefined) taken.set(realPathOf(flags[option]), `--${option} reads it`);
  for (const option of ['out', 'certificate', 'pareto'] as const) {
    const file = flags[option];
    if (file === undefined) continue;
    const at = realPathOf(file);
    const replacesCurrent = option !== 'out' && flags.current !== undefined && at === realPathOf(flags.current);
    const why = replacesCurrent ? '--current reads it' : taken.get(at);
    if (why !== undefined) throw new CommandFailure(`--${option} ${file}: ${why}`, { status: exitStatus.usage });
    taken.set(at, `--${option} writes there too`);
  }
}

/** Where a name leads: results are written through links. */
function realPathOf(file: string): string {
  return existsSync(file) ? realpathSync(file) : path.resolve(file);
}

/** Options that a plan from loads alone obeys. All others say something about tokens. */
const loadOptions = ['--trace', '--topology', '--model-dir', '--replicas', '--out', '--seed', '--deadline', '--dry-run', '--json'];

function refuseForLoads(trace: string, given: readonly string[]): void {
  for (const option of given)
    if (!loadOptions.includes(option))
      throw new CommandFailure(`${option} needs to know which experts each token chose; ${trace} holds loads per expert only`, {
        status: exitStatus.usage,
      });
}

async function placeByRouting(
  trace: RoutingTrace,
  topology: Topology,
  host: HostModel | null,
  inForce: Plan | null,
  flags: PlaceFlags,
  signal: AbortSignal,
): Promise<void> {
  const enough = trace.sequences.length >= 8 && flags.heldOut > 0;
  const { train, test } = enough ? holdOut(trace, flags.heldOut, flags.seed) : { train: trace, test: trace };
  const judged = thinTokens(test, scoreTokensMax);
  const cluster = clusterOf(topology);
  const current = inForce === null ? null : planOfShape(flags.current!, inForce, { model: trace, workers: cluster.workers });
  const now = current ?? (await baselinePlan('contiguous', trace, topology));
  const wholeGroups = groupsToKeep(flags, trace, cluster.nodes);
  const endMs = performance.now() + (flags.deadline ?? Infinity);
  const options = { ...placeOptions({ ...flags, ...searchTime(flags) }, signal), replicas: flags.replicas, wholeGroups };
  const boundable = flags.model === 'fan-out' && wholeGroups === null && process.stderr.isTTY;
  const line = new ProgressLine(boundable ? await quickBound(train, cluster, flags.replicas, signal) : null);
  let placed = await place(train, topology, {
    ...options,
    warmStart: current !== null && flags.budgetBytes !== undefined ? current : null,
    rename: (plan) => named(plan, now, cluster, flags),
    onProgress: ({ stage, incumbent }) => line.update(stage, incumbent),
  });
  line.finish();
  const stop = () => performance.now() >= endMs;
  placed = await near(placed, now, train, topology, flags, { signal, stop });
  const homes = chooseHomes(judged, placed.masks, cluster, { kind: 'whole-sequence' }, flags.homeTolerance);
  const score = scoreFanOut(judged, placed.plan.replicas, cluster, homes);
  const nowHomes =
    current === null
      ? homesInTurn(judged, cluster)
      : chooseHomes(judged, nodeMasks(current, cluster), cluster, { kind: 'whole-sequence' }, flags.homeTolerance);
  const nowScore = scoreFanOut(judged, now.replicas, cluster, nowHomes);
  const certificate = await prove(placed.plan, cluster, judged, {
    homes,
    claims: flags.model === 'chain' ? ['fan-out', 'load', 'chain'] : ['fan-out', 'load'],
    rounds: proofRounds(judged),
    signal,
  });
  if (flags.prove !== undefined) await proveByWindows(certificate, judged, flags.prove, signal);
  const diff = diffPlans(now, placed.plan, topology.expertBytes);
  const claims = certificate.claims.map((c) => ({ kind: c.kind, score: c.score, bound: c.bound }));
  const described = { ...placed, homes, score };
  const why = explain(described, judged);
  const points = flags.pareto === undefined ? null : await paretoPoints(train, judged, topology, now, flags, signal);
  const seen = { trace: judged, cluster, topology, seed: flags.seed };
  const figures = {
    now: figuresOf(nowScore, { ...seen, replicas: now.replicas, homes: nowHomes }, host),
    proposed: figuresOf(score, { ...seen, replicas: placed.plan.replicas, homes }, host),
  };
  const outputs: Output[] = [{ option: '--out', file: flags.out, text: jsonLine(placed.plan) }];
  if (flags.certificate !== undefined) outputs.push({ option: '--certificate', file: flags.certificate, text: jsonLine(certificate) });
  if (flags.pareto !== undefined && points!.length > 0) {
    const page = paretoPage(points!, `Placement of ${trace.model} on ${counted(cluster.nodes, 'node')}`);
    outputs.push({ option: '--pareto', file: flags.pareto, text: page });
  }
  if (flags.json) {
    const report = {
      format: 'switchyard-place',
      version: 1,
      stopped: placed.stopped,
      ...figures,
      bytesToMove: diff.bytes,
      interNodeBytesToMove: diff.interNodeBytes,
      claims,
      explanation: why,
      pareto: points,
      plan: placed.plan,
    };
    return deliver(jsonLine(report), outputs, flags);
  }
  const gap = claims.map((c) => `${c.kind} ${gapText(c)}`).join(', ');
  const text = [
    comparisonTable(
      [
        { name: current === null ? 'now (contiguous)' : 'now', figures: figures.now },
        { name: 'proposed', figures: figures.proposed },
      ],
      diff,
      gap,
    ),
    `${measuredOn(judged, enough)}; ${stepTimesBy(host)}`,
    '',
    ...explanationText(why),
    ...(points === null ? [] : ['', paretoText(points)]),
    '',
  ];
  deliver(`${text.join('\n')}\n${placed.stopped ? stoppedEarly : ''}`, outputs, flags);
}

const stoppedEarly = 'stopped early: this is the best plan found so far\n';

/** Tells what was found before it is written: a disk that is full takes the files, not the search. */
function deliver(report: string, outputs: readonly Output[], { dryRun, json }: PlaceFlags): void {
  print(report);
  if (dryRun !== true) writeOutputs(outputs);
  if (json) return;
  print(dryRun ? 'dry run: nothing was written\n' : `wrote ${outputs.map(({ file }) => file).join(', ')}\n`);
}

/** How far a score is from its bound. There is no share of a bound of 0: what can be told is that nothing above 0 is proven. */
function gapText({ score, bound }: { score: number; bound: number }): string {
  return bound === 0 ? 'bound 0' : `${(100 * Math.abs(score / bound - 1)).toFixed(1)}%`;
}

/** Seconds of highs that one solve of a window may take. */
const windowSolveMs = 200_000;

/** Replaces the chain claim's proof by the stronger one, window by window. */
async function proveByWindows(certificate: Certificate, trace: RoutingTrace, width: number, signal: AbortSignal): Promise<void> {
  const pairs = trace.moeLayers.length - 1;
  const line = new ProgressLine(null);
  for (const [i, claim] of certificate.claims.entries()) {
    if (claim.kind !== 'chain') continue;
    certificate.claims[i] = await tightenChain(claim, trace, {
      width,
      rounds: 14,
      timeLimitMs: windowSolveMs,
      signal,
      onWindow: (_, to, staying) => line.update(`proving windows of ${width} layers: ${to} of ${pairs} layer pairs`, staying),
    });
  }
  line.finish();
}

/** Tokens that the bound of the progress line looks at. */
const quickBoundTokens = 1000;

/** Pairs of experts, of all layers and rounds of a proof, that are looked at in a second or two. */
const quickPairs = 1_000_000;

/**
 * A bound for whoever watches the progress line, before there is a plan: on a few tokens, for plans whose nodes hold at most a quarter more of a layer than their even
 * part. Where nodes' memory is uneven, plans are not like that: null; so it is where the search would wait for it. The certificate proves its own for the plan that was
 * found.
 */
async function quickBound(trace: RoutingTrace, cluster: Cluster, replicas: number, signal: AbortSignal): Promise<number | null> {
  const memory = nodeSlots(cluster);
  if (memory.some((slots) => slots !== memory[0])) return null;
  if (trace.moeLayers.length * trace.experts ** 2 * proofRoundsMin > quickPairs) return null;
  const few = thinTokens(trace, quickBoundTokens);
  const part = Math.min(trace.experts, Math.ceil((1.25 * trace.experts * (1 + replicas)) / cluster.nodes));
  const sizes = trace.moeLayers.map(() => new Array<number>(cluster.nodes).fill(part));
  return (await proveFanOut(few, cluster.nodes, sizes, { rounds: proofRounds(few), signal })).bound;
}

/** One round answers a guess, the second what came of it. */
const proofRoundsMin = 2;

/** The proof's effort falls with the number of pairs of experts it has to look at. */
function proofRounds(trace: RoutingTrace): number {
  return Math.max(proofRoundsMin, Math.min(24, Math.round(quickPairs / (trace.moeLayers.length * trace.experts ** 2))));
}

function homesInTurn(trace: RoutingTrace, cluster: Cluster): Int32Array {
  return spreadOverWorkers(
    trace.sequences.map((_, s) => s % cluster.nodes),
    trace.sequences.map((s) => s.tokens),
    cluster,
  );
}

/** Replica memory and peak/mean of the plans that trade-offs are shown of. */
const paretoReplicas = [0, 0.125, 0.25, 0.5, 1];
const paretoPeaks = [1.03, 1.1, 1.2, 1.5];

async function paretoPoints(
  train: RoutingTrace,
  judged: RoutingTrace,
  topology: Topology,
  now: Plan,
  flags: PlaceFlags,
  signal: AbortSignal,
): Promise<ParetoPoint[]> {
  const points: ParetoPoint[] = [];
  const cluster = clusterOf(topology);
  const line = new ProgressLine(null);
  for (const replicas of paretoReplicas)
    for (const peak of paretoPeaks) {
      if (signal.aborted) break;
      const options = {
        ...placeOptions({ ...flags, peak, starts: 1, sampleTokens: Math.min(flags.sampleTokens, 4000) }, signal),
        replicas,
      };
      const label = `+${100 * replicas}%, peak ${peak}`;
      try {
        const rename = (plan: Plan) => named(plan, now, cluster, flags);
        const wholeGroups = groupsToKeep(flags, train, cluster.nodes);
        const { plan, masks, stopped } = await place(train, topology, { ...options, rename, wholeGroups });
        const homes = chooseHomes(judged, masks, cluster, { kind: 'whole-sequence' }, flags.homeTolerance);
        const score = scoreFanOut(judged, plan.replicas, cluster, homes);
        const used = plan.replicas.flat().reduce((sum, list) => sum + list.length, 0) / (plan.replicas.length * plan.model.experts) - 1;
        points.push({
          label,
          remoteNodes: score.remoteNodes,
          peakMean: score.peakMean,
          replicas: Number(used.toFixed(3)),
          bytesMoved: diffPlans(now, plan, topology.expertBytes).bytes,
          stopped,
        });
        line.update(`pareto ${label}`, score.remoteNodes);
      } catch (error) {
        if ((error as { code?: string }).code !== 'bad_plan') throw error;
      }
    }
  line.finish();
  return points;
}

function paretoText(points: readonly ParetoPoint[]): string {
  const tried = paretoReplicas.length * paretoPeaks.length;
  if (points.length === 0) return 'pareto: no plan was found, or none in time; nothing was written there';
  const front = new Set(paretoFront(points));
  const table = textTable(
    ['plan', 'r', 'peak/mean', 'replicas', 'to move', 'front'],
    points.map((p) => [
      pointName(p),
      p.remoteNodes.toFixed(3),
      p.peakMean.toFixed(3),
      `${(100 * p.replicas).toFixed(1)}%`,
      formatBytes(p.bytesMoved),
      front.has(p) ? '*' : '',
    ]),
  );
  if (points.length === tried) return table;
  return `${table}\n${tried - points.length} of ${tried} plans are not there: they do not fit, or there was no time to search them`;
}

/** Nodes in full; of the layers, those that stand out. */
export function explanationText(why: Explanation): string[] {
  const nodes = textTable(
    [
      'node',
      'experts',
      'tokens at home',
      'rows served',
      'own rows served here',
      'most rows leave for',
      'next replica (layer, expert): saves',
    ],
    why.nodes.map((n) => [
      n.name,
      n.experts,
      `${(100 * n.homeShare).toFixed(1)}%`,
      `${(100 * n.rowShare).toFixed(1)}%`,
      `${(100 * n.servedAtHome).toFixed(1)}%`,
      n.busiestLink === null ? '-' : `${n.busiestLink.to} (${n.busiestLink.rowsPerToken.toFixed(2)} per token)`,
      n.nextReplica === null ? '-' : `(${n.nextReplica.layer}, ${n.nextReplica.expert}): ${n.nextReplica.saves.toFixed(4)}`,
    ]),
  );
  const layers = [...why.layers].sort((a, b) => b.remoteNodes - a.remoteNodes);
  const shown = layers.slice(0, 4).concat(layers.length > 6 ? layers.slice(-2) : []);
  const byLayer = textTable(
    ['layer', 'remote nodes', 'peak/mean', 'replicas', 'hottest expert'],
    shown.map((l) => [
      l.layer,
      l.remoteNodes.toFixed(3),
      l.peakMean.toFixed(3),
      l.replicas,
      `${l.hottest.expert} (${(100 * l.hottest.share).toFixed(1)}% of rows, on ${counted(l.hottest.nodes, 'node')})`,
    ]),
  );
  const homes = why.nodes.flatMap((n) =>
    n.domains.length === 0 ? [] : [`  ${n.name}: ${n.domains.map((d) => `${d.domain} (${d.tokens} tokens)`).join(', ')}`],
  );
  return [nodes, '', 'layers that cost most, and least:', byLayer, '', 'who lives where:', ...homes];
}

async function placeByLoads(loads: LoadMatrix, topology: Topology, flags: PlaceFlags, signal: AbortSignal, model?: string): Promise<void> {
  const cluster = clusterOf(topology);
  const endMs = performance.now() + (flags.deadline ?? Infinity);
  const line = new ProgressLine(null);
  const plan = await placeLoads(loads, topology, {
    replicas: flags.replicas,
    seed: flags.seed,
    stop: () => signal.aborted || performance.now() >= endMs,
    onLayer: (done) => line.update(`layer ${done} of ${loads.layers}`, null),
    ...(model === undefined ? {} : { model }),
  });
  line.finish();
  const stopped = signal.aborted || performance.now() >= endMs;
  const workers = cluster.workers.length;
  const rows = Array.from({ length: loads.layers }, (_, l) => {
    const own = loads.counts.subarray(l * loads.experts, (l + 1) * loads.experts);
    const contiguous = Array.from({ length: loads.experts }, (_, e) => [Math.floor((e * workers) / loads.experts)]);
    const peakMean = (replicas: number[][]) => peakOverMean(evenSplitLoads(own, replicas, workers), cluster.speedOf);
    return { now: peakMean(contiguous), proposed: peakMean(plan.replicas[l]) };
  });
  const meanOf = (key: 'now' | 'proposed') => rows.reduce((sum, r) => sum + r[key], 0) / rows.length;
  const outputs: Output[] = [{ option: '--out', file: flags.out, text: jsonLine(plan) }];
  if (flags.json) {
    const report = {
      format: 'switchyard-place',
      version: 1,
      stopped,
      now: { peakMean: meanOf('now') },
      proposed: { peakMean: meanOf('proposed') },
      plan,
    };
    deliver(jsonLine(report), outputs, flags);
    return;
  }
  const table = textTable(
    ['', 'now (contiguous)', 'proposed'],
    [['peak/mean load for its speed, even split over replicas', meanOf('now').toFixed(4), meanOf('proposed').toFixed(4)]],
  );
  const note = 'The trace holds loads only, so this plan balances rows and knows nothing of what crosses nodes.';
  deliver(`${table}\n${note}\n${stopped ? stoppedEarly : ''}`, outputs, flags);
}
