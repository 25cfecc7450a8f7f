import { spawn } from 'node:child_process';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Backend } from '@switchyard/proto';

/** What a backend says of itself, or why it cannot be had. */
export interface BackendTrial {
  backend: Backend;
  found: { isa: string; abi: number; accelerator?: string; acceleratorBytes?: number } | null;
  refusal: string | null;
  /** There is one, but it cannot be used now: another program holds its memory, say. */
  busy: boolean;
}

const probe = `
  const { native } = await import('@switchyard/native');
  const trial = (backend) => {
    try {
      const device = native.deviceOpen({ backend, isa: 'auto', threads: 1, cpus: null });
      const found = native.deviceDescribe(device);
      native.deviceClose(device);
      return { backend, found, refusal: null, busy: false };
    } catch (error) {
      return { backend, found: null, refusal: error.message, busy: error.status !== 'unsupported' };
    }
  };
  console.log(JSON.stringify(process.argv.slice(1).map(trial)));`;

/**
 * Opens each backend in a child process: kernels that do not suit this machine would take the whole program down with them, and a GPU's driver keeps hundreds of
 * megabytes of whoever has opened it.
 *
 * @throws Error saying why the kernels do not load at all
 */
export async function tryBackends(backends: readonly Backend[]): Promise<BackendTrial[]> {
  const here = path.dirname(fileURLToPath(import.meta.url));
  const child = spawn(process.execPath, ['--input-type=module', '-e', probe, ...backends], {
    cwd: here,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  let errors = '';
  child.stdout.on('data', (chunk: Buffer) => {
    output += chunk;
  });
  child.stderr.on('data', (chunk: Buffer) => {
    errors += chunk;
  });
  const [status, signal] = await new Promise<[number | null, string | null]>((resolve) =>
    child.once('close', (code, sig) => resolve([code, sig])),
  );
  if (signal) throw new Error(`loading them was ended by ${signal}`);
  if (status !== 0) throw new Error(errors.match(/^\w*Error.*$/m)?.[0] ?? `loading them failed with status ${status}`);
  return JSON.parse(output) as BackendTrial[];
}
