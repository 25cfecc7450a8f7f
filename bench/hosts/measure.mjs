// One cell of the table: a phase and a batch, on a running cluster, by its clients and by the counters of its workers and of the bed.
import os from 'node:os';
import { machineSeconds, processorSecondsOf } from '../../test/hosts/bed/processor-time.mjs';
import { median } from '../median.mjs';
import { warmUp } from '../warm-up.mjs';

/** Prompt tokens of a decode cell; how many tokens each of its streams generates is the workload's: all must be under way for a while. */
const decodePrompt = 16;
/** Every cell is measured in rounds of other sequences, and its rate is the median round's: one round differs from the next by a tenth. One client's are short. */
const roundsLeast = 3;
const decodeRounds = { 1: 5 };
/** Prompt tokens of each request of a prefill cell: about 2,000 in all, but for one client, whose prompt is one step. How often is the workload's. */
const prefillPrompt = { 1: 512, 8: 256, 32: 64 };

/** A cell of whose cores' time other programs, or other machines on the same hardware, had more than this share is measured again. */
export const disturbedMax = 0.06;

/** How long at most: rounds of warming up and of a cell, and how often a cell is measured that was disturbed each time. */
export const fullEffort = { warmRoundsMax: 30, roundsMax: Infinity, attemptsMax: 3 };

/** Sends the requests again and again until that is no longer getting faster: code is compiled, connections have opened their windows. */
export function warm(cluster, requests, { warmRoundsMax } = fullEffort) {
  const round = async () => {
    const completions = await cluster.batch(requests);
    return requests.reduce((tokens, { prompt, maxTokens }) => tokens + prompt.length + maxTokens, 0) / secondsOf(completions);
  };
  return warmUp(round, { roundsMax: warmRoundsMax });
}

/** One cluster's cell. */
export async function measureCell(bed, cluster, workload, what, effort) {
  const [cell] = await measureBeside(bed, [cluster], workload, what, effort);
  return cell;
}

/**
 * The same cell of clusters that share the hosts, in turns by rounds: the machine's speed differs by a fifth within minutes, and what they are compared by must not.
 * What was measured with the fewest disturbances; the first time that they were few.
 *
 * @returns one cell a cluster
 */
export async function measureBeside(bed, clusters, workload, what, effort = fullEffort) {
  const most = (cells) => Math.max(...cells.map(({ disturbed }) => disturbed));
  let best = null;
  for (let attempt = 0; attempt < effort.attemptsMax && !(best !== null && most(best) <= disturbedMax); attempt++) {
    const cells = await measureOnce(bed, clusters, workload, what, effort);
    if (best === null || most(cells) < most(best)) best = cells;
  }
  return best;
}

/**
 * @param first number of the first request: cells of different plans that have the same number ask for the same
 * @returns what it measured, of each cluster; times in seconds
 */
async function measureOnce(bed, clusters, workload, { phase, batch, first }, { roundsMax }) {
  const decoding = phase === 'decode';
  const promptTokens = decoding ? decodePrompt : (prefillPrompt[batch] ?? Math.min(512, Math.ceil(2048 / batch)));
  const maxTokens = decoding ? workload.decodeTokens : 1;
  const roundsWanted = decoding ? (decodeRounds[batch] ?? roundsLeast) : batch === 1 ? 2 * workload.prefillRounds : workload.prefillRounds;
  const rounds = Math.max(roundsLeast, Math.min(roundsWanted, roundsMax));
  const before = await Promise.all(clusters.map((cluster) => cluster.counters()));
  const seen = clusters.map(() => []);
  for (let round = 0; round < rounds; round++) {
    const requests = Array.from({ length: batch }, (_, i) => workload.request(first + round * batch + i, promptTokens, maxTokens));
    const order = clusters.map((_, c) => c);
    for (const c of round % 2 === 0 ? order : order.reverse()) {
      const earlier = await observe(bed, clusters);
      const completions = await clusters[c].batch(requests);
      seen[c].push({ requests, completions, ...since(earlier, await observe(bed, clusters), c) });
    }
  }
  const after = await Promise.all(clusters.map((cluster) => cluster.counters()));
  const failed = seen
    .flat()
    .flatMap(({ completions }) => completions)
    .find(({ error }) => error !== null);
  if (failed) throw new Error(`${phase} at batch ${batch}: ${failed.error}`);
  return clusters.map((_, c) => {
    const figures = seen[c].map(({ completions }) => (decoding ? decodeFigures(completions) : prefillFigures(completions)));
    const rates = figures.map((f) => f.tokensPerSecond);
    const total = (pick) => seen[c].reduce((sum, round) => sum + pick(round), 0);
    const each = (pick) => pick(seen[c][0]).map((_, i) => total((round) => pick(round)[i]));
    const elapsedSeconds = total(({ completions }) => secondsOf(completions));
    return {
      phase,
      batch,
      promptTokens,
      maxTokens,
      rounds,
      tokensPerSecond: median(rates),
      /** Of each round; the same round of clusters side by side was measured in the same minute. */
      roundTokensPerSecond: rates,
      /** Of one stream while decoding; of a prompt token's share of its request's time while prefilling. */
      secondsPerToken: median(figures.map((f) => f.secondsPerToken)),
      homes: seen[c].map(({ completions }) => completions.map(({ home }) => home)),
      sequences: seen[c].map(({ requests }) => requests.map(({ domain, replaySequence }) => ({ domain, replaySequence }))),
      ...difference(before[c], after[c], batch * rounds * (promptTokens + maxTokens - 1)),
      processorSeconds: {
        workers: each(({ processorSeconds }) => processorSeconds.workers),
        outside: total(({ processorSeconds }) => processorSeconds.outside),
        network: total(({ processorSeconds }) => processorSeconds.network),
      },
      /** Share of the cores' time that programs had which are none of the bed's, or other machines. */
      disturbed: total((round) => Math.max(0, round.othersSeconds) + round.stolenSeconds) / (os.cpus().length * elapsedSeconds),
      wireBytes: each(({ wireBytes }) => wireBytes),
      /** How late the bed delivers beside what it should, on average; null where the kernel is the network. */
      lateSeconds:
        seen[c][0].late === null
          ? null
          : total(({ late }) => late.seconds) /
            Math.max(
              1,
              total(({ late }) => late.packets),
            ),
      /** From the first request's start to the last one's end, all rounds. */
      elapsedSeconds,
    };
  });
}

/** Counters of the bed and of the machine. */
async function observe(bed, clusters) {
  const wire = await bed.counters();
  return { wire, clusters: clusters.map((c) => c.processorSeconds()), machine: machineSeconds(), driver: processorSecondsOf(process.pid) };
}

/** What has grown: cluster `c` is the one that was used. */
function since(before, after, c) {
  const own = {
    workers: after.clusters[c].workers.map((seconds, w) => seconds - before.clusters[c].workers[w]),
    outside: after.clusters[c].outside - before.clusters[c].outside,
    network: after.clusters[c].network - before.clusters[c].network,
  };
  const seconds = ({ clusters, driver }) =>
    driver + clusters[0].network + clusters.flatMap(({ workers, outside }) => [...workers, outside]).reduce((a, b) => a + b, 0);
  return {
    processorSeconds: own,
    othersSeconds: after.machine.busy - before.machine.busy - (seconds(after) - seconds(before)),
    stolenSeconds: after.machine.stolen - before.machine.stolen,
    wireBytes: wireDifference(before.wire, after.wire),
    late: lateDifference(before.wire, after.wire),
  };
}

/** By how many seconds in all, and how many packets. */
function lateDifference(before, after) {
  if (after.lateSeconds === undefined) return null;
  const total = (values) => values.flat().reduce((a, b) => a + b, 0);
  return { seconds: total(after.lateSeconds) - total(before.lateSeconds), packets: total(after.packets) - total(before.packets) };
}

function secondsOf(completions) {
  return (Math.max(...completions.map(({ endMs }) => endMs)) - Math.min(...completions.map(({ startMs }) => startMs))) / 1000;
}

/** Steady state: from the moment at which every stream has begun to the first one's end. */
function decodeFigures(completions) {
  const fromMs = Math.max(...completions.map(({ chunkMs }) => chunkMs[0]));
  const untilMs = Math.min(...completions.map(({ chunkMs }) => chunkMs.at(-1)));
  let tokens = 0;
  let secondsPerToken = 0;
  for (const { chunkMs, tokensBy } of completions) {
    const inside = chunkMs.map((ms, i) => ({ ms, tokens: tokensBy[i] })).filter(({ ms }) => ms >= fromMs && ms <= untilMs);
    const own = inside.at(-1).tokens - inside[0].tokens;
    const ownSeconds = (inside.at(-1).ms - inside[0].ms) / 1000;
    tokens += own / ownSeconds;
    secondsPerToken += ownSeconds / own / completions.length;
  }
  return { tokensPerSecond: tokens, secondsPerToken };
}

function prefillFigures(completions) {
  const tokens = completions.reduce((sum, { promptTokens }) => sum + promptTokens, 0);
  const seconds = secondsOf(completions);
  return { tokensPerSecond: tokens / seconds, secondsPerToken: seconds / tokens };
}

/** What the workers counted, all together and each. Bytes of frames, each direction of a link where it was sent. */
function difference(before, after, tokens) {
  const workers = after.workers.map((worker) => {
    const earlier = before.workers.find(({ name }) => name === worker.name).stats;
    const grown = (key) => worker.stats[key] - earlier[key];
    const links = worker.stats.links.map((link) => {
      const since = earlier.links.find(({ peer }) => peer === link.peer);
      const of = (key) => link[key] - (since?.[key] ?? 0);
      return {
        peer: link.peer,
        sent: of('bytesSent'),
        received: of('bytesReceived'),
        roundTrips: of('roundTrips'),
        seconds: of('roundTripSeconds'),
      };
    });
    return {
      name: worker.name,
      steps: grown('steps'),
      awakeSeconds: grown('awakeSeconds'),
      tokens: grown('promptTokens') + grown('generatedTokens'),
      rows: grown('rowsDispatched'),
      remoteNodes: grown('remoteNodesVisited'),
      expertRows: grown('expertRows'),
      seconds: Object.fromEntries(Object.entries(worker.stats.seconds).map(([k, v]) => [k, v - earlier.seconds[k]])),
      links,
    };
  });
  const sum = (pick) => workers.reduce((total, worker) => total + pick(worker), 0);
  const overLinks = (key) => sum(({ links }) => links.reduce((total, link) => total + link[key], 0));
  const roundTrips = overLinks('roundTrips');
  return {
    tokens,
    r:
      sum((w) => w.remoteNodes) /
      Math.max(
        1,
        sum((w) => w.rows),
      ),
    frameBytesPerToken: (overLinks('sent') + overLinks('received')) / tokens,
    roundTrips,
    roundTripSeconds: roundTrips > 0 ? overLinks('seconds') / roundTrips : 0,
    workers,
  };
}

/** Bytes that left each host's link, as Ethernet sees them where the bed can tell. */
function wireDifference(before, after) {
  if (after.wireBytes === undefined) return after.sent.map((bytes, host) => bytes - before.sent[host]);
  return after.wireBytes.map((row, from) => row.reduce((total, bytes, to) => total + bytes - before.wireBytes[from][to], 0));
}
