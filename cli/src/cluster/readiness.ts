import { setTimeout as sleep } from 'node:timers/promises';
import type { ApiClient } from '../api/client.ts';
import type { ClusterStatus } from '../api/cluster-status.ts';
import { readClusterStatus } from '../api/cluster-status.ts';
import { CommandFailure } from '../failure.ts';

/** How often readiness is looked at: a tenth of what the smallest model takes to load. */
const pollMs = 40;

/** Waits until the cluster can answer requests. `watch` sees every reading and may throw to give up. */
export async function untilReady(admin: ApiClient, watch: (status: ClusterStatus) => void, signal: AbortSignal): Promise<ClusterStatus> {
  for (;;) {
    const status = await readClusterStatus(admin, signal);
    if (status === null) throw new CommandFailure(`${admin.baseUrl} does not show its status to the process that started it`);
    watch(status);
    const broken = status.workers.find((worker) => worker.state === 'failed');
    if (broken) throw new CommandFailure(`worker ${broken.name} cannot serve the model: ${broken.failure}`);
    if (status.ready) return status;
    await sleep(pollMs, undefined, { signal });
  }
}
