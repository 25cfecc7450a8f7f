import { readFileSync } from 'node:fs';
import path from 'node:path';
import { performance } from 'node:perf_hooks';
import type { Plan } from '@switchyard/proto';
import type { ClusterStatus } from '../api/cluster-status.ts';
import type { Colours } from '../terminal/colours.ts';
import { formatBytes } from '../terminal/quantity.ts';
import { textTable } from '../terminal/table.ts';
import type { LocalCluster } from './local-cluster.ts';

/** What `switchyard up --json` prints, once, when the server is ready. */
export interface UpReport {
  format: 'switchyard-up';
  version: 1;
  url: string;
  model: string;
  modelDir: string;
  readySeconds: number;
  numericClass: string;
  /** Checksum of the plan. */
  plan: string;
  /** What any other plan for this model has to cover. */
  planModel: Plan['model'];
  workers: UpWorker[];
}

export interface UpWorker {
  name: string;
  node: string;
  pid: number;
  threads: number;
  cpus: number[] | null;
  /** (layer, expert) replicas that it holds. */
  experts: number;
  residentBytes: number;
  addresses: string[];
}

export function upReport(modelDir: string, cluster: LocalCluster, status: ClusterStatus): UpReport {
  return {
    format: 'switchyard-up',
    version: 1,
    url: cluster.url,
    model: status.model,
    modelDir,
    readySeconds: (performance.now() - cluster.startedMs) / 1000,
    numericClass: status.numericClass,
    plan: status.plan.checksum,
    planModel: { type: modelType(modelDir), moeLayers: status.plan.moeLayers, experts: status.plan.experts },
    workers: cluster.workers.map(({ name, node, share }) => {
      const seen = status.workers.find((worker) => worker.name === name);
      return {
        name,
        node,
        pid: cluster.pidOf(name) ?? 0,
        threads: share.threads,
        cpus: share.cpus,
        experts: seen?.experts ?? 0,
        residentBytes: seen?.residentBytes ?? 0,
        addresses: seen?.addresses ?? [],
      };
    }),
  };
}

function modelType(modelDir: string): string {
  return (JSON.parse(readFileSync(path.join(modelDir, 'config.json'), 'utf8')) as { model_type: string }).model_type;
}

export function formatUpReport(report: UpReport, { bold }: Colours): string {
  const rows = report.workers.map((worker) => [
    worker.node,
    worker.name,
    worker.pid,
    worker.threads,
    worker.cpus === null ? 'any' : worker.cpus.join(','),
    worker.experts,
    formatBytes(worker.residentBytes),
    // The best one; the host of a socket is this one.
    worker.addresses[0]?.replace(/^(uds|shm):\/\/[^/]*/, '$1://') ?? '',
  ]);
  return [
    `${bold(report.model)} is served on ${bold(report.url)} (ready after ${report.readySeconds.toFixed(1)} s, plan ${report.plan}, class ${report.numericClass})`,
    '',
    textTable(['node', 'worker', 'pid', 'threads', 'cpus', 'experts', 'resident', 'address'], rows),
    '',
    '',
  ].join('\n');
}
