import { type ChildProcess, spawn } from 'node:child_process';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Backend } from '@switchyard/proto';

/** What a backend says of itself, or why it cannot be had. */
export interface BackendTrial {
  backend: Backend;
  found: { isa: string; abi: number; accelerator?: string; acceleratorBytes?: number } | null;
  refusal: string | null;
  /** Of one that cannot be had. `busy`: there is one, but it cannot be used now; another program holds its memory, say. `failed`: opening it never ended, or ended the process, or there was none. */
  trouble: 'absent' | 'busy' | 'failed' | null;
}

/** Says what the backend named by its argument is, or why it cannot be had. */
const probe = `
  const { native } = await import('@switchyard/native');
  const backend = process.argv[1];
  const trial = () => {
    try {
      const device = native.deviceOpen({ backend, isa: 'auto', threads: 1, cpus: null });
      const found = native.deviceDescribe(device);
      native.deviceClose(device);
      return { backend, found, refusal: null, trouble: null };
    } catch (error) {
      return { backend, found: null, refusal: error.message, trouble: error.status === 'unsupported' ? 'absent' : 'busy' };
    }
  };
  console.log(JSON.stringify(trial()));`;

/** The driver of many GPUs takes some seconds to begin with; one that hangs does so for ever. */
const trialMsMax = 60_000;

/**
 * Opens each backend in a child process of its own: kernels that do not suit this machine would take the whole program down with them, a GPU's driver keeps hundreds
 * of megabytes of whoever has opened it, and one that hangs or crashes says nothing of the others.
 *
 * @throws Error saying why the kernels do not load at all
 */
export async function tryBackends(backends: readonly Backend[]): Promise<BackendTrial[]> {
  return await Promise.all(backends.map((backend) => tryBackend(backend, probe, trialMsMax)));
}

/** @param program of the child; prints its trial */
export async function tryBackend(backend: Backend, program: string, msMax: number): Promise<BackendTrial> {
  const failed = (refusal: string): BackendTrial => ({ backend, found: null, refusal, trouble: 'failed' });
  const noProcess = (error: unknown) =>
    failed(`no process can be made for it: ${(error as Error).message}; see how many there may be, and free memory`);
  let child: ChildProcess;
  try {
    child = spawn(process.execPath, ['--input-type=module', '-e', program, backend], {
      cwd: path.dirname(fileURLToPath(import.meta.url)),
      stdio: ['ignore', 'pipe', 'pipe'],
    });
  } catch (error) {
    // Some reasons are thrown, others are events.
    return noProcess(error);
  }
  let output = '';
  let errors = '';
  // Without a process there may be neither.
  child.stdout?.on('data', (chunk: Buffer) => {
    output += chunk;
  });
  child.stderr?.on('data', (chunk: Buffer) => {
    errors += chunk;
  });
  let limit: NodeJS.Timeout | undefined;
  const ended = await new Promise<[number | null, string | null] | Error | null>((resolve) => {
    child.on('error', resolve);
    child.once('close', (code, sig) => resolve([code, sig]));
    limit = setTimeout(resolve, msMax, null);
  });
  clearTimeout(limit);
  if (ended === null) {
    // Whoever is stuck in a driver does not hear the signal either: nobody waits for its end.
    child.kill('SIGKILL');
    child.unref();
    child.stdout?.destroy();
    child.stderr?.destroy();
    return failed(`opening it took more than ${msMax / 1000} s`);
  }
  if (ended instanceof Error) return noProcess(ended);
  const [status, signal] = ended;
  if (signal !== null) return failed(`opening it was ended by ${signal}`);
  if (status !== 0) throw new Error(errors.match(/^\w*Error.*$/m)?.[0] ?? `loading them failed with status ${status}`);
  return JSON.parse(output) as BackendTrial;
}
