import path from 'node:path';
import { builtProgram } from './programs.ts';
import type { WorkerSpec } from './worker-fleet.ts';

export type LocalTransport = 'uds' | 'tcp' | 'grpc';

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
    ...['--name', worker.name, '--node', worker.node],
    ...['--data', dataAddress(worker, around)],
    ...['--threads', String(threads)],
    ...(cpus === null ? [] : ['--cpus', cpus.join(',')]),
    ...['--token-file', around.tokenFile],
    ...['--grace-ms', String(Math.max(1, around.graceMs))],
    '--supervised',
  ];
}

function dataAddress(worker: WorkerSpec, { transport, runFolder }: WorkerSurroundings): string {
  return transport === 'uds' ? `uds://${path.join(runFolder, `${worker.name}.sock`)}` : `${transport}://127.0.0.1:0`;
}
