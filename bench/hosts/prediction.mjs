// What the cost model says of a measured cell: the host model is fitted to measurements on one host (and of frames between two), the links to the bed's, and then
// the cell's own requests are played through on the homes that the coordinator chose for them.
import { clusterOf, simulateSteps } from '../../placement/dist/index.js';
import { topologyOf } from './plans.mjs';
import { onHosts } from './workloads.mjs';

/** Rows of one step that the workers run with: of one chunk, or of the two chunks that a worker has on the way where rows leave it. */
const stepRows = 512;
const lanesOf = (plan) => (plan.replicas.flat().every((holders) => holders.length === plan.workers.length) ? 1 : 2);
const headerBytes = 64;
const pairBytes = 8;

/** Least squares of y over columns, none of them negative: with so few columns, every subset is tried. */
function leastSquares(columns, y) {
  let best = null;
  for (let mask = 1; mask < 1 << columns.length; mask++) {
    const used = columns.map((_, i) => i).filter((i) => mask & (1 << i));
    const solved = solve(
      used.map((i) => used.map((j) => dot(columns[i], columns[j]))),
      used.map((i) => dot(columns[i], y)),
    );
    if (solved === null || solved.some((v) => v < 0)) continue;
    const values = columns.map((_, i) => (used.includes(i) ? solved[used.indexOf(i)] : 0));
    const error = y.reduce((sum, v, row) => sum + (v - columns.reduce((s, c, i) => s + c[row] * values[i], 0)) ** 2, 0);
    if (best === null || error < best.error) best = { error, values };
  }
  return best.values;
}

const dot = (a, b) => a.reduce((sum, v, i) => sum + v * b[i], 0);

/** Gaussian elimination; null where there is no single solution. */
function solve(matrix, right) {
  const rows = matrix.map((row, i) => [...row, right[i]]);
  for (let i = 0; i < rows.length; i++) {
    const pivot = rows.findIndex((row, r) => r >= i && Math.abs(row[i]) > 1e-18);
    if (pivot < 0) return null;
    [rows[i], rows[pivot]] = [rows[pivot], rows[i]];
    for (let r = 0; r < rows.length; r++) {
      if (r === i) continue;
      const factor = rows[r][i] / rows[i][i];
      for (let c = i; c <= rows.length; c++) rows[r][c] -= factor * rows[i][c];
    }
  }
  return rows.map((row, i) => row[rows.length] / row[i]);
}

/** Weighs each measurement by itself, so that small steps count as much as large ones. */
function relativeLeastSquares(columns, y) {
  return leastSquares(
    columns.map((column) => column.map((v, i) => v / y[i])),
    y.map(() => 1),
  );
}

/** A host model from the cells of `calibrate`. */
export async function hostModelOf(calibration, workload) {
  const trace = await workload.routing();
  const layers = trace.moeLayers.length;
  const one = calibration.cells.map((cell) => {
    const [{ steps, seconds }] = cell.workers;
    const played = roundsOf(cell, workload, trace, () => 0, 1, 1).flatMap((homes) => homes[0]);
    const mean = (pick) => played.reduce((sum, rows) => sum + pick(rows), 0) / played.length;
    return {
      rows: mean((rows) => rows.length),
      pairs: mean((rows) => rows.length * trace.topK),
      distinct: mean((rows) => distinctExperts(trace, rows)),
      segment: seconds.attention / steps / (layers + 1),
      experts: seconds.experts_own / steps / layers,
      step: (seconds.sampling + seconds.other) / steps,
      outside: cell.processorSeconds.outside / (cell.batch * cell.rounds * cell.maxTokens),
      decoding: cell.phase === 'decode',
    };
  });
  const column = (pick) => one.map(pick);
  const ones = column(() => 1);
  const [segmentFixed, segmentPerRow] = relativeLeastSquares(
    [ones, column((c) => c.rows)],
    column((c) => c.segment),
  );
  const [expertsFixed, perPair, perExpert] = relativeLeastSquares(
    [ones, column((c) => c.pairs), column((c) => c.distinct)],
    column((c) => c.experts),
  );
  const [stepFixed, stepPerRow] = relativeLeastSquares(
    [ones, column((c) => c.rows)],
    column((c) => c.step),
  );
  const decoding = one.filter((c) => c.decoding && c.rows >= 4);
  const host = {
    step: { fixed: stepFixed, perRow: stepPerRow },
    segment: { fixed: segmentFixed, perRow: segmentPerRow },
    experts: { fixed: expertsFixed, perRow: perPair, perExpert },
    frame: { fixed: 0, perByte: 0 },
    outsidePerToken: decoding.reduce((sum, c) => sum + c.outside, 0) / decoding.length,
  };
  const cores = effectiveCores(calibration, host, workload, trace);
  return { cores, host: { ...host, frame: frameCost(calibration.between, host, workload, trace) }, points: one };
}

/** Cores that would do, without getting in one another's way, what these do together: they share memory and caches. */
function effectiveCores({ together, cores }, host, workload, trace) {
  const layers = trace.moeLayers.length;
  const plan = onHosts(workload.model, cores);
  const slowdowns = together.map((cell) => {
    const indexOf = new Map(plan.workers.map(({ name }, w) => [name, w]));
    const rounds = roundsOf(cell, workload, trace, (round, i) => indexOf.get(cell.homes[round][i]), cores, 1);
    let predicted = 0;
    for (const rows of rounds.flat(2)) {
      const { segment, experts } = host;
      predicted += (layers + 1) * (segment.fixed + segment.perRow * rows.length);
      predicted += layers * (experts.fixed + experts.perRow * rows.length * trace.topK + experts.perExpert * distinctExperts(trace, rows));
    }
    const measured = cell.workers.reduce((sum, { seconds }) => sum + seconds.attention + seconds.experts_own, 0);
    return measured / predicted;
  });
  return cores / Math.max(1, slowdowns.reduce((a, b) => a + b, 0) / slowdowns.length);
}

/** What is left of the workers' processor time between two hosts when all but the frames is taken away, over the ends of frames and their bytes. */
function frameCost(cells, host, workload, trace) {
  const plan = onHosts(workload.model, 2);
  const measured = cells.map((cell) => {
    const free = playCell({ plan, hosts: 2 }, cell, workload, trace, host, { bandwidth: 1e9, latency: 0 }, null);
    const busy = free.reduce((sum, { busySeconds }) => sum + busySeconds.reduce((a, b) => a + b, 0), 0);
    const total = cell.processorSeconds.workers.reduce((a, b) => a + b, 0);
    const bytes = cell.workers.reduce((sum, { links }) => sum + links.reduce((s, link) => s + link.sent, 0), 0);
    // Each frame has two ends; a round trip has two frames.
    return { left: Math.max(0, total - busy), ends: 4 * cell.roundTrips, bytes: 2 * bytes };
  });
  const [fixed, perByte] = leastSquares(
    [measured.map((m) => m.ends), measured.map((m) => m.bytes)],
    measured.map((m) => m.left),
  );
  return { fixed, perByte };
}

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

/** Steps of every home, for each round of a cell: [round][home][step] -> tokens of the trace. */
export function roundsOf(cell, workload, trace, homeOf, homes, lanes) {
  const starts = startsOf(trace);
  return cell.sequences.map((requests, round) => {
    const streams = requests.map((request, i) => ({
      sequence: workload.tracedSequence(trace, request, round * cell.batch + i),
      home: homeOf(round, i),
    }));
    return Array.from({ length: homes }, (_, home) => {
      const own = streams.filter((stream) => stream.home === home);
      return cell.phase === 'decode' ? decodeSteps(own, cell, trace, starts) : promptSteps(own, cell, trace, starts, lanes);
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

function decodeSteps(streams, cell, trace, starts) {
  if (streams.length === 0) return [];
  return Array.from({ length: cell.maxTokens - 1 }, (_, step) =>
    streams.map(({ sequence }) => starts[sequence] + ((cell.promptTokens + step) % trace.sequences[sequence].tokens)),
  );
}

/** The first request of a home is there before the others, and is a step of its own; then steps are filled. */
function promptSteps(streams, cell, trace, starts, lanes) {
  const prompts = streams.map(({ sequence }) =>
    Array.from({ length: cell.promptTokens }, (_, p) => starts[sequence] + (p % trace.sequences[sequence].tokens)),
  );
  const rows = Math.ceil(stepRows / lanes);
  const chunks = (tokens) => Array.from({ length: Math.ceil(tokens.length / rows) }, (_, i) => tokens.slice(i * rows, (i + 1) * rows));
  return prompts.length === 0 ? [] : [...chunks(prompts[0]), ...chunks(prompts.slice(1).flat())];
}

/** The rounds of a cell, each played through. */
function playCell({ plan, hosts }, cell, workload, trace, host, link, coreGroups) {
  const topology = topologyOf(workload, hosts, link);
  const indexOf = new Map(plan.workers.map(({ name }, w) => [name, w]));
  return roundsOf(cell, workload, trace, (round, i) => indexOf.get(cell.homes[round][i]), hosts, lanesOf(plan)).map((steps) =>
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

/** @param cores that all hosts of the bed share */
export async function predictCell(part, cell, workload, host, cores) {
  const trace = await workload.routing();
  const measured = part.links.find(({ delayMicros }) => delayMicros === cell.delayMicros);
  const link = { bandwidth: measured.bytesPerSecond, latency: measured.roundTripMicros.least / 2e6 };
  const coreGroups = [{ cores, workers: part.plan.workers.map((_, w) => w), outside: true }];
  const played = playCell(part, cell, workload, trace, host, link, coreGroups);
  const mean = (pick) => played.reduce((sum, p) => sum + pick(p), 0) / played.length;
  // A decode step gives every stream of a home a token; a prefill is over when its last home is.
  return {
    seconds: cell.phase === 'decode' ? mean((p) => p.secondsPerStep) : mean((p) => p.seconds),
    r: mean((p) => p.remoteNodes),
    bytesPerToken: mean((p) => p.bytesPerRow),
    /** Of one dispatched and one returned row, tables and headers left out. */
    topologyRowBytes: 2 * workload.hidden + combineRowBytesOf(cell, workload),
  };
}

/** The measured counterpart of `seconds`. */
export function measuredSeconds(cell) {
  return cell.phase === 'decode' ? cell.secondsPerToken : (cell.batch * cell.promptTokens) / cell.tokensPerSecond;
}
