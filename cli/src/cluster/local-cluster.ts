import path from 'node:path';
import { performance } from 'node:perf_hooks';
import type { GivenConfig, RunningCoordinator } from '@switchyard/coordinator';
import { startCoordinator } from '@switchyard/coordinator';
import type { Backend } from '@switchyard/proto';
import type { ClusterStatus } from '../api/cluster-status.ts';
import type { ClusterShape } from './cluster-shape.ts';
import type { CpuShare } from './cpu-share.ts';
import { removeLeftovers } from './leftovers.ts';
import type { RunFolder } from './run-folder.ts';
import { controlSocket, createRunFolder } from './run-folder.ts';
import { saveSession } from './session.ts';
import type { TraceFolder } from './trace-folder.ts';
import type { LocalTransport } from './worker-flags.ts';
import { workerArgs } from './worker-flags.ts';
import type { WorkerDeath, WorkerSpec } from './worker-fleet.ts';
import { WorkerFleet } from './worker-fleet.ts';

export interface LocalClusterOptions {
  shape: ClusterShape;
  shares: CpuShare[];
  /** One or more, taken by the workers in turn. */
  backends: readonly Backend[];
  transport: LocalTransport;
  traces: TraceFolder;
  graceMs: number;
  /** Everything about the coordinator but where workers attach and the secrets. */
  coordinator: Omit<GivenConfig, 'control' | 'tokenFile' | 'adminTokenFile' | 'traceDir' | 'graceMs'>;
  onDeath(death: WorkerDeath): void;
  onLine(worker: WorkerSpec, line: string): void;
  /** A line of JSON of the coordinator's log. */
  onLog(line: string): void;
}

/** A coordinator in this process and its workers in theirs. */
export interface LocalCluster {
  readonly url: string;
  readonly adminToken: string;
  readonly workers: WorkerSpec[];
  readonly startedMs: number;
  pidOf(name: string): number | null;
  /** Refuses new requests, lets running ones end within the grace, stops the workers, removes the run folder. */
  stop(): Promise<void>;
}

/** How often the workers' deaths are told which of them have loaded: well below the time after which one counts as healthy. */
const lookMs = 5_000;

/** Starts both; that they are ready is another matter. Whatever was started is stopped again when a part of it fails. */
export async function startLocalCluster(options: LocalClusterOptions): Promise<LocalCluster> {
  const startedMs = performance.now();
  await removeLeftovers();
  const run = createRunFolder();
  let coordinator: RunningCoordinator | null = null;
  try {
    const config = {
      ...options.coordinator,
      control: `unix:${path.join(run.path, controlSocket)}`,
      tokenFile: run.tokenFile,
      adminTokenFile: run.adminTokenFile,
      ...(options.traces.dir === null ? {} : { traceDir: options.traces.dir }),
      graceMs: options.graceMs,
    };
    coordinator = await startCoordinator(config, options.onLog);
    return runWorkers(options, run, coordinator, startedMs);
  } catch (error) {
    await coordinator?.close();
    run.remove();
    throw error;
  }
}

function runWorkers(options: LocalClusterOptions, run: RunFolder, coordinator: RunningCoordinator, startedMs: number): LocalCluster {
  const workers = options.shape.workers.map((worker, index) => ({
    ...worker,
    index,
    share: options.shares[index],
    backend: options.backends[index % options.backends.length]!,
  }));
  const around = {
    runFolder: run.path,
    tokenFile: run.tokenFile,
    controlAddress: coordinator.controlAddress,
    transport: options.transport,
    graceMs: options.graceMs,
  };
  const fleet = new WorkerFleet({
    workers,
    argsOf: (worker) => workerArgs(worker, around),
    onDeath: options.onDeath,
    onLine: options.onLine,
  });
  // The last that may fail: nobody would end the workers.
  saveSession(run.path, { url: coordinator.url, adminToken: run.adminToken, traces: options.traces });
  fleet.start();
  const looking = setInterval(() => fleet.noteLoaded(loadedPids(coordinator)), lookMs);
  return {
    url: coordinator.url,
    adminToken: run.adminToken,
    workers,
    startedMs,
    pidOf: (name) => fleet.pidOf(name),
    async stop() {
      clearInterval(looking);
      await coordinator.close();
      await fleet.stop(options.graceMs);
      run.remove();
    },
  };
}

/** The processes of workers that hold their model, whether or not others are still missing. */
function loadedPids(coordinator: RunningCoordinator): Set<number> {
  const { workers } = coordinator.status() as unknown as ClusterStatus;
  return new Set(workers.flatMap(({ state, pid }) => ((state === 'loaded' || state === 'ready') && pid !== null ? [pid] : [])));
}
