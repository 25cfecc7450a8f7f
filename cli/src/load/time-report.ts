import type { ClusterStatus } from '../api/cluster-status.ts';
import { earlierCounters } from '../traffic/earlier-counters.ts';

/** What the workers spent their time on while a level ran, all together. */
export interface TimeReport {
  steps: number;
  /** Seconds by activity. Idle time is none: between the two readings lie pauses that are no part of the level. */
  seconds: Record<string, number>;
}

/** The difference of two readings of the workers' counters. Pure. */
export function timeReport(before: ClusterStatus, after: ClusterStatus): TimeReport {
  const report: TimeReport = { steps: 0, seconds: {} };
  for (const worker of after.workers) {
    const { stats } = worker;
    if (stats === null) continue;
    const earlier = earlierCounters(before, worker);
    report.steps += stats.steps - (earlier?.steps ?? 0);
    for (const [activity, seconds] of Object.entries(stats.seconds)) {
      if (activity === 'idle') continue;
      report.seconds[activity] = (report.seconds[activity] ?? 0) + seconds - (earlier?.seconds[activity] ?? 0);
    }
  }
  return report;
}
