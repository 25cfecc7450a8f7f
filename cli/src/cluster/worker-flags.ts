import path from 'node:path';
import { builtProgram } from './programs.ts';
import type { WorkerSpec } from './worker-fleet.ts';

export type LocalTransport = 'shm' | 'uds' | 'tcp' | 'grpc';

export interface WorkerSurroundings {
  runFolder: string;
  tokenFile: string;
  /** Where workers attach, as the coordinator announces it. */
  controlAddress: string;
  transport: LocalTransport;
  graceMs: number;
}

/** Program and flags of one worker of a cluster on this machine. Pure. */
export function workerArgs(worker: WorkerSpec, around: WorkerSurroundings): string[] {
  const { threads, cpus } = worker.share;
  return [
    builtProgram('worker'),
    ...['--coordinator', around.controlAddress],
    // In one word each: a name may begin with a dash.
    ...[`--name=${worker.name}`, `--node=${worker.node}`],
    ...dataAddresses(worker, around).flatMap((address) => ['--data', address]),
    ...['--backend', worker.backend],
    ...['--threads', String(threads)],
    ...(cpus === null ? [] : ['--cpus', cpus.join(',')]),
    ...['--token-file', around.tokenFile],
    ...['--grace-ms', String(Math.max(1, around.graceMs))],
    '--supervised',
  ];
}

/**
 * A system without shared memory between processes has sockets all the same. They are named by the worker's index: its own name is a plan's, which may be as long as it
 * likes and have slashes.
 */
function dataAddresses({ index }: WorkerSpec, { transport, runFolder }: WorkerSurroundings): string[] {
  const socket = `uds://${path.join(runFolder, `w${index}.sock`)}`;
  if (transport === 'shm') return [`shm://${path.join(runFolder, `w${index}.shm`)}`, socket];
  return [transport === 'uds' ? socket : `${transport}://127.0.0.1:0`];
}
