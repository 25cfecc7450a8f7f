// What the cost model says of a measured cell: the host model is fitted to measurements on one host (and of frames between two), the links to the bed's, and then
// the cell's own requests are played through on the homes that the coordinator chose for them.
import { clusterOf, fitCosts, simulateSteps } from '../../placement/dist/index.js';
import { promptLaneRows, promptLanes, solePromptRows, stepDefaults } from '../../proto/dist/index.js';
import { median } from '../median.mjs';
import { topologyOf } from './plans.mjs';
import { onHosts } from './workloads.mjs';

/** Steps over prompts that a worker has on the way: one where no rows leave it. */
const lanesOf = (plan) => (plan.replicas.flat().every((holders) => holders.length === plan.workers.length) ? 1 : promptLanes);
const headerBytes = 64;
const pairBytes = 8;

/**
 * A host model from what `calibrate` measured. What a host does alone is read from its own sections of time and its processor time; frames are what is left of the
 * processor time between hosts when all else is taken away, and what carries them is counted by itself.
 *
 * @returns {host, cores, crowdedSpeed, carrier: {fixed, perByte, lateSeconds} | null, leftOut: {decode, prefill}, points}
 */
export async function hostModelOf(calibration, workload) {
  const trace = await workload.routing();
  const layers = trace.moeLayers.length;
  const points = calibration.alone.map((cell) => {
    const played = playedSteps(cell, workload, trace);
    const sum = (pick) => played.reduce((total, step) => total + pick(step), 0);
    const [{ seconds }] = cell.workers;
    return {
      steps: cell.workers[0].steps,
      rows: sum(({ rows }) => rows.length),
      context: sum(({ contextTokens }) => contextTokens),
      tokens: sum(({ tokens }) => tokens),
      requests: cell.batch * cell.rounds,
      distinct: sum(({ rows }) => distinctExperts(trace, rows)),
      attention: seconds.attention,
      experts: seconds.experts_own,
      rest: workedSeconds(cell) - seconds.attention - seconds.experts_own,
      taken: workedSeconds(cell),
      outside: cell.processorSeconds.outside,
    };
  });
  const costsOf = (columns, of, scale = of) =>
    fitCosts(
      columns.map((column) => points.map(column)),
      points.map(of),
      points.map(scale),
    );
  const [segmentFixed, segmentPerRow, perContext, readout] = costsOf(
    [(p) => layers * p.steps, (p) => layers * p.rows, (p) => layers * p.context, (p) => p.tokens],
    (p) => p.attention,
  );
  const [expertsFixed, perPair, perExpert] = costsOf(
    [(p) => layers * p.steps, (p) => layers * p.rows * trace.topK, (p) => layers * p.distinct],
    (p) => p.experts,
  );
  const [stepFixed, stepPerRow, stepPerToken] = costsOf(
    [(p) => p.steps, (p) => p.rows, (p) => p.tokens],
    (p) => p.rest,
    (p) => p.taken,
  );
  const [perRequest, perStep, perToken] = costsOf([(p) => p.requests, (p) => p.steps, (p) => p.tokens], (p) => p.outside);
  const host = {
    step: { fixed: stepFixed, perRow: stepPerRow, perToken: stepPerToken + readout },
    segment: { fixed: segmentFixed, perRow: segmentPerRow, perContext },
    experts: { fixed: expertsFixed, perRow: perPair, perExpert },
    frame: { fixed: 0, perByte: 0 },
    wake: 0,
    outside: { perRequest, perStep, perToken },
  };
  const { cores } = calibration;
  // Hosts with cores of their own never take turns.
  const [beside, sharing = beside] = calibration.together.map((some) => crowdedSpeedOf(some, host, workload, trace));
  const crowdedSpeed = { beside, sharing };
  const machine = { cores, crowdedSpeed };
  const { frame, wake, carrier } = frameCosts(calibration, host, machine, workload, trace);
  const model = { host: { ...host, frame, wake }, ...machine, carrier, points };
  return { ...model, leftOut: await leftOutOf(calibration, workload, model) };
}

/** Every number in it, times the factor. */
function scaled(costs, factor) {
  if (typeof costs === 'number') return costs * factor;
  if (Array.isArray(costs)) return costs.map((cost) => scaled(cost, factor));
  return Object.fromEntries(Object.entries(costs).map(([name, cost]) => [name, scaled(cost, factor)]));
}

/** All steps of a cell on one host that has all requests. */
function playedSteps(cell, workload, trace) {
  return roundsOf(cell, workload, trace, () => 0, 1, 1, true).flatMap((homes) => homes[0]);
}

/** What a core does while others work, beside what it does for one alone: from the processor time of hosts that need nothing of one another. */
function crowdedSpeedOf({ hosts, cells }, host, workload, trace) {
  const layers = trace.moeLayers.length;
  const plan = onHosts(workload.model, hosts);
  const indexOf = new Map(plan.workers.map(({ name }, w) => [name, w]));
  const { segment, experts, step } = host;
  const speeds = cells.map((cell) => {
    const rounds = roundsOf(cell, workload, trace, (round, i) => indexOf.get(cell.homes[round][i]), hosts, 1, true);
    let own = 0;
    for (const { rows, contextTokens, tokens } of rounds.flat(2)) {
      own += step.fixed + step.perRow * rows.length + step.perToken * tokens;
      own += layers * (segment.fixed + segment.perRow * rows.length + segment.perContext * contextTokens);
      own += layers * (experts.fixed + experts.perRow * rows.length * trace.topK + experts.perExpert * distinctExperts(trace, rows));
    }
    return own / workedSeconds(cell);
  });
  return Math.min(1, sumOf(speeds) / speeds.length);
}

/**
 * What is left of the workers' processor time between hosts when all that one does alone is taken away: over the ends of frames, their bytes, and how often a
 * worker begins after it has slept. What the network took is counted apart.
 */
function frameCosts({ rateMbit, between }, host, machine, workload, trace) {
  const measured = between.flatMap(({ hosts, cells }) =>
    cells.map((cell) => ({
      cell,
      part: { plan: onHosts(workload.model, hosts), hosts },
      frames: 2 * cell.roundTrips,
      bytes: sumOf(cell.workers.flatMap(({ links }) => links.map(({ sent, received }) => sent + received))),
      taken: workedSeconds(cell),
    })),
  );
  const carrier = carrierOf(measured);
  let costs = { frame: { fixed: 0, perByte: 0 }, wake: 0 };
  // Frames make workers meet on the cores, and wait, where they would not have without them: what the others take then is found again.
  for (let round = 0; round < 4; round++) {
    const { frame, wake } = costs;
    const left = measured.map(({ cell, part, frames, bytes, taken }) => {
      const played = playCell(
        ...[part, cell, workload, trace, { ...host, frame, wake }],
        ...[
          { bandwidth: (rateMbit * 1e6) / 8, latency: cell.delayMicros / 1e6 + (carrier?.lateSeconds ?? 0) },
          [{ ...machine, workers: part.plan.workers.map((_, w) => w), outside: true, carrier }],
          true,
        ],
      );
      const wakes = sumOf(played.flatMap((p) => p.wakes));
      const known = 2 * (frames * frame.fixed + bytes * frame.perByte) + wake * wakes;
      return { wakes, seconds: taken - sumOf(played.flatMap(({ busySeconds }) => busySeconds)) + known };
    });
    const [fixed, perByte, ownWake] = fitCosts(
      [measured.map(({ frames }) => 2 * frames), measured.map(({ bytes }) => 2 * bytes), left.map(({ wakes }) => wakes)],
      left.map(({ seconds }) => seconds),
      measured.map(({ taken }) => taken),
    );
    costs = { frame: { fixed, perByte }, wake: ownWake };
  }
  return { ...costs, carrier };
}

/** What the program that carries the packets takes, and how late it is; null where the kernel carries them. */
function carrierOf(measured) {
  const carried = measured.map(({ cell }) => cell.processorSeconds.network);
  if (carried.every((seconds) => seconds === 0)) return null;
  const frames = measured.map((m) => m.frames);
  const [fixed, perByte] = fitCosts([frames, measured.map(({ bytes }) => bytes)], carried);
  return { fixed, perByte, lateSeconds: sumOf(measured.map((m) => m.cell.lateSeconds * m.frames)) / sumOf(frames) };
}

/**
 * Everything above is processor time; what a step waits for besides (the scheduler, caches that others have filled) no counter shows. It is one factor a phase on
 * the time of a step: the median over the calibration's cells with more hosts than cores, as the predicted cells have.
 */
async function leftOutOf({ rateMbit, delayMicros, between }, workload, model) {
  const { hosts, cells } = between.at(-1);
  const links = [{ delayMicros, bytesPerSecond: (rateMbit * 1e6) / 8 }];
  const part = { plan: onHosts(workload.model, hosts), hosts, links };
  const factors = { decode: [], prefill: [] };
  for (const cell of cells) {
    const { seconds } = await predictCell(part, cell, workload, { ...model, leftOut: { decode: 1, prefill: 1 } });
    factors[cell.phase].push(measuredSeconds(cell) / seconds);
  }
  return { decode: median(factors.decode), prefill: median(factors.prefill) };
}

/** Processor time of a cell's workers without that in which they waited awake, which any other program could have had. */
const workedSeconds = ({ processorSeconds, workers }) => {
  const seconds = sumOf(processorSeconds.workers) - sumOf(workers.map(({ awakeSeconds }) => awakeSeconds));
  if (!(seconds > 0)) throw new Error('this part was measured by workers that do not count the time of waiting awake: measure it again');
  return seconds;
};

/** Processor time of the program that took most: a worker, what carries the packets, or the busier one of the API and its client. */
function busiestSeconds({ plan }, { processorSeconds, workers }) {
  const awakeOf = ({ name }) => workers.find((worker) => worker.name === name).awakeSeconds;
  const worked = processorSeconds.workers.map((seconds, w) => seconds - awakeOf(plan.workers[w]));
  return Math.max(...worked, processorSeconds.network, processorSeconds.outside / 2);
}

const sumOf = (values) => values.reduce((a, b) => a + b, 0);

/** Distinct experts that rows touch in a layer, on average. */
function distinctExperts(trace, rows) {
  const layers = trace.moeLayers.length;
  let total = 0;
  for (let l = 0; l < layers; l++) {
    const seen = new Set();
    for (const token of rows) for (let k = 0; k < trace.topK; k++) seen.add(trace.ids[(token * layers + l) * trace.topK + k]);
    total += seen.size;
  }
  return total / layers;
}

/**
 * Steps of every home, for each round of a cell: [round][home][step].
 * @param whole with the prompts of decodes, as counters see them; else from the first decode step on, as clients measure
 */
export function roundsOf(cell, workload, trace, homeOf, homes, lanes, whole = false) {
  const starts = startsOf(trace);
  return cell.sequences.map((requests, round) => {
    const streams = requests.map((request, i) => ({
      sequence: workload.tracedSequence(trace, request, round * cell.batch + i),
      home: homeOf(round, i),
      request: i + 1,
    }));
    return Array.from({ length: homes }, (_, home) => {
      const own = streams.filter((stream) => stream.home === home);
      const prompts = cell.phase === 'decode' && !whole ? [] : promptSteps(own, cell, trace, starts, lanes);
      return cell.phase === 'decode' ? [...prompts, ...decodeSteps(own, cell, trace, starts)] : prompts;
    });
  });
}

function startsOf(trace) {
  let at = 0;
  return trace.sequences.map(({ tokens }) => {
    at += tokens;
    return at - tokens;
  });
}

/** Routing is that of the traced sequence, begun again where it ends. */
const tokenAt = (trace, starts, sequence, position) => starts[sequence] + (position % trace.sequences[sequence].tokens);

function decodeSteps(streams, cell, trace, starts) {
  if (streams.length === 0) return [];
  return Array.from({ length: cell.maxTokens - 1 }, (_, step) => ({
    rows: streams.map(({ sequence }) => tokenAt(trace, starts, sequence, cell.promptTokens + step)),
    contextTokens: streams.length * (cell.promptTokens + step + 1),
    tokens: streams.length,
    afterRequests: 0,
  }));
}

/** The first request of a home is there before the others, and is a step of its own; then steps are filled. */
function promptSteps(streams, cell, trace, starts, lanes) {
  const prompts = streams.map(({ sequence, request }) =>
    Array.from({ length: cell.promptTokens }, (_, position) => ({
      token: tokenAt(trace, starts, sequence, position),
      position,
      request,
    })),
  );
  const most = lanes === 1 ? stepDefaults.maxBatchRows : promptLaneRows(stepDefaults.maxBatchRows);
  const chunks = (rows, size) => Array.from({ length: Math.ceil(rows.length / size) }, (_, i) => rows.slice(i * size, (i + 1) * size));
  if (prompts.length === 0) return [];
  const first = lanes === 1 ? most : solePromptRows(cell.promptTokens, most);
  return [...chunks(prompts[0], first), ...chunks(prompts.slice(1).flat(), most)].map((rows) => ({
    rows: rows.map(({ token }) => token),
    contextTokens: rows.reduce((sum, { position }) => sum + position + 1, 0),
    tokens: rows.filter(({ position }) => position === cell.promptTokens - 1).length,
    afterRequests: Math.max(...rows.map(({ request }) => request)),
  }));
}

/** The rounds of a cell, each played through. */
function playCell({ plan, hosts }, cell, workload, trace, host, link, coreGroups, whole = false) {
  const topology = topologyOf(workload, hosts, link);
  const indexOf = new Map(plan.workers.map(({ name }, w) => [name, w]));
  return roundsOf(cell, workload, trace, (round, i) => indexOf.get(cell.homes[round][i]), hosts, lanesOf(plan), whole).map((steps) =>
    simulateSteps({
      trace,
      replicas: plan.replicas,
      cluster: clusterOf(topology),
      links: topology,
      host,
      frames: { headerBytes, dispatchRowBytes: topology.dispatchRowBytes, pairBytes, combineRowBytes: combineRowBytesOf(cell, workload) },
      coreGroups,
      steps,
      stepsInFlight: cell.phase === 'decode' ? 1 : lanesOf(plan),
    }),
  );
}

/** A row of sums takes 16 or 32 bits an element, whichever holds it: what the cell's answers took on average. */
function combineRowBytesOf(cell, workload) {
  const links = cell.workers.flatMap(({ links: own }) => own);
  const rows = cell.workers.reduce((sum, { remoteNodes }) => sum + remoteNodes, 0);
  if (rows === 0) return 2 * workload.hidden;
  const answers = links.reduce((sum, { received, roundTrips }) => sum + received - roundTrips * headerBytes, 0);
  return answers / rows;
}

/** @param model of `hostModelOf`; all hosts of the bed share its cores */
export async function predictCell(part, cell, workload, { host, cores, crowdedSpeed, carrier, leftOut }) {
  const trace = await workload.routing();
  const measured = part.links.find(({ delayMicros }) => delayMicros === cell.delayMicros);
  // The bed's own delay, and how late it is. What a probe's round trip takes beyond them is work of its ends and of the carrier, and is counted there.
  const link = { bandwidth: measured.bytesPerSecond, latency: cell.delayMicros / 1e6 + (carrier?.lateSeconds ?? 0) };
  const coreGroups = [{ cores, crowdedSpeed, workers: part.plan.workers.map((_, w) => w), outside: true, carrier }];
  const played = playCell(part, cell, workload, trace, host, link, coreGroups);
  const mean = (pick) => played.reduce((sum, p) => sum + pick(p), 0) / played.length;
  // A decode step gives every stream of a home a token; a prefill is over when its last token is there.
  return {
    seconds: leftOut[cell.phase] * (cell.phase === 'decode' ? mean((p) => p.secondsPerStep) : mean((p) => p.seconds)),
    r: mean((p) => p.remoteNodes),
    bytesPerToken: mean((p) => p.bytesPerRow),
    roundTripSeconds: mean((p) => p.roundTripSeconds),
    processorSeconds: played.map(({ busySeconds }) => busySeconds.reduce((a, b) => a + b, 0)).reduce((a, b) => a + b, 0),
    /** Of one dispatched and one returned row, tables and headers left out. */
    topologyRowBytes: 2 * workload.hidden + combineRowBytesOf(cell, workload),
  };
}

/**
 * What the cell could not be faster than: `cores`, if its processor time were spread over all cores without a pause, or, where hosts have their own, if the busiest
 * program never waited; `network`, if no processor were needed and only the links' bit rate and delay counted. Seconds, like `measuredSeconds`.
 */
export async function floorsOf(part, cell, workload, { host, cores }) {
  const { outside, network } = cell.processorSeconds;
  const needed = part.coresPerHost ? busiestSeconds(part, cell) : (workedSeconds(cell) + outside + network) / cores;
  const share = needed / cell.elapsedSeconds;
  const link = { bandwidth: (part.rateMbit * 1e6) / 8, latency: cell.delayMicros / 1e6 };
  const played = playCell(part, cell, workload, await workload.routing(), scaled(host, 0), link, null);
  const of = cell.phase === 'decode' ? (p) => p.secondsPerStep : (p) => p.seconds;
  return { cores: share * measuredSeconds(cell), network: sumOf(played.map(of)) / played.length };
}

/** The measured counterpart of `seconds`. */
export function measuredSeconds(cell) {
  return cell.phase === 'decode' ? cell.secondsPerToken : (cell.batch * cell.promptTokens) / cell.tokensPerSecond;
}
