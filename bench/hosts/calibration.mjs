// What the cost model must know of a host, measured on one host alone; and what a frame costs its two ends, between two hosts and between more than there are cores.
import os from 'node:os';
import { startBed } from '../../test/hosts/bed/bed.mjs';
import { startCluster } from '../../test/hosts/bed/cluster.mjs';
import { measureCell, warm } from './measure.mjs';
import { onHosts } from './workloads.mjs';

/** Steps of so many rows: streams of decoding, and prompts. */
const alone = [
  ...[1, 2, 4, 8, 16, 32].map((batch) => ({ phase: 'decode', batch })),
  ...[1, 8, 32].map((batch) => ({ phase: 'prefill', batch })),
];
/** Streams and prompts of two homes: frames of few rows and of many. */
const between = [...[2, 8, 32].map((batch) => ({ phase: 'decode', batch })), ...[2, 8, 32].map((batch) => ({ phase: 'prefill', batch }))];

/**
 * The same of more hosts than cores, or of as many as are predicted where each has its own: frames that come while a host is at work, or several at a time, cost
 * less than those that it has waited for.
 */
const among = [...[1, 4, 16].map((batch) => ({ phase: 'decode', batch })), ...[4, 16].map((batch) => ({ phase: 'prefill', batch }))];

/** Hosts with every expert each, as many as there are cores and twice as many: what those that work at the same time take from one another, without a frame. */
const togetherOf = (hosts) => [
  { phase: 'decode', batch: 4 * hosts },
  { phase: 'prefill', batch: 4 * hosts },
];

/**
 * Measured beside the cells that it is to predict, in the same minutes. About five minutes.
 *
 * @param hosts of the cells
 * @param cpus of each host, where they have their own: then they never take turns
 */
export async function calibrate(workload, { hosts, network, rateMbit, delayMicros, cpus, effort }) {
  const cores = os.cpus().length;
  const link = { network, rateMbit, delayMicros };
  const silent = { network: 'veth', rateMbit: 10_000, delayMicros: 0 };
  const measure = (plan, links, cells) => measureOn(workload, plan, links, cells, { cpus, effort });
  const across = async (count, cells) => ({ hosts: count, cells: await measure(onHosts(workload.model, count), link, cells) });
  const together = async (count) => ({
    hosts: count,
    cells: await measure(everywhere(onHosts(workload.model, count)), silent, togetherOf(count)),
  });
  return {
    ...{ workload: workload.name, ...link, cores },
    alone: await measure(onHosts(workload.model, 1), { network }, alone),
    together: cpus === null ? [await together(cores), await together(2 * cores)] : [await together(hosts)],
    between: [await across(2, between), await across(cpus === null ? 2 * cores : hosts, among)],
  };
}

function everywhere(plan) {
  const all = plan.workers.map((_, w) => w);
  return { ...plan, replicas: plan.replicas.map((layer) => layer.map(() => all)) };
}

async function measureOn(workload, plan, network, cells, { cpus, effort }) {
  const hosts = plan.workers.length;
  const bed = await startBed({ hosts, ...network });
  try {
    // Routing is replayed even where the workload's own is used: a step then runs layer by layer, as it does when rows leave, and it is known what it computed.
    const replay = workload.replay ?? workload.planningTrace;
    const cluster = await startCluster(bed, {
      model: workload.model,
      plan,
      replay,
      cpus,
      coordinatorFlags: ['--no-prefix-cache', '--draft-max', '0'],
    });
    try {
      const request = (n, promptTokens, maxTokens) => ({
        ...workload.request(n, promptTokens, maxTokens, true),
        replaySequence: workload.request(n, 1, 1, true).replaySequence ?? n % workload.tracedSequences,
      });
      const warming = Array.from({ length: 16 }, (_, i) => request(2_000_000 + i, 64, workload.decodeTokens));
      await warm(cluster, warming, effort);
      const results = [];
      for (const [i, { phase, batch }] of cells.entries())
        results.push({
          delayMicros: network.delayMicros ?? 0,
          ...(await measureCell(bed, cluster, { ...workload, request }, { phase, batch, first: 3_000_000 + i * 100 }, effort)),
        });
      for (const { phase, batch, workers } of results) {
        const [{ steps, seconds }] = workers;
        const shown = Object.entries(seconds).map(([k, v]) => `${k} ${((1e6 * v) / steps).toFixed(0)}`);
        process.stderr.write(`${workload.name} on ${hosts}, ${phase} ${batch}: ${steps} steps, us each: ${shown.join(', ')}\n`);
      }
      return results;
    } finally {
      await cluster.stop();
    }
  } finally {
    await bed.stop();
  }
}
