import type { ClusterStatus, WorkerCounters } from '../api/cluster-status.ts';

/** What a worker had counted by an earlier reading; null where it has counted from zero since: it was not there, or was started anew. Pure. */
export function earlierCounters(before: ClusterStatus, { name, stats }: ClusterStatus['workers'][number]): WorkerCounters | null {
  const earlier = before.workers.find((worker) => worker.name === name)?.stats ?? null;
  return earlier === null || stats === null || stats.steps < earlier.steps ? null : earlier;
}
