// What the cost model must know of a host, measured on one host alone: no network, one worker of one thread.
import { startBed } from './bed/bed.mjs';
import { startCluster } from './cluster.mjs';
import { measureCell } from './measure.mjs';
import { onHosts } from './workloads.mjs';

/** Steps of so many rows: streams of decoding, and one prompt of a prefill. */
const decodeBatches = [1, 2, 4, 8, 16, 32];
const prefillBatches = [1, 8, 32];

export async function calibrate(workload) {
  const bed = await startBed({ hosts: 1 });
  try {
    // Routing is replayed even where the workload's own is used: a step then runs layer by layer, as it does when rows leave.
    const replay = workload.replay ?? workload.planningTrace;
    const cluster = await startCluster(bed, {
      model: workload.model,
      plan: onHosts(workload.model, 1),
      replay,
      coordinatorFlags: ['--no-prefix-cache'],
    });
    try {
      await cluster.batch(Array.from({ length: 16 }, (_, i) => workload.request(2_000_000 + i, 64, 16)));
      const cells = [];
      for (const batch of decodeBatches)
        cells.push(await measureCell(bed, cluster, workload, { phase: 'decode', batch, first: 3_000_000 + batch * 100 }));
      for (const batch of prefillBatches)
        cells.push(await measureCell(bed, cluster, workload, { phase: 'prefill', batch, first: 4_000_000 + batch * 100 }));
      for (const { phase, batch, workers } of cells) {
        const [{ steps, seconds }] = workers;
        const shown = Object.entries(seconds).map(([k, v]) => `${k} ${((1e6 * v) / steps).toFixed(0)}`);
        process.stderr.write(`${workload.name} on one host, ${phase} ${batch}: us a step: ${shown.join(', ')}\n`);
      }
      return { workload: workload.name, cells };
    } finally {
      await cluster.stop();
    }
  } finally {
    await bed.stop();
  }
}
