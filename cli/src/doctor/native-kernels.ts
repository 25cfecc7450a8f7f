import { spawn } from 'node:child_process';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Check } from './check.ts';
import { failed, ok } from './check.ts';

const probe = `
  const { native } = await import('@switchyard/native');
  const device = native.deviceOpen({ backend: 'cpu', isa: 'auto', threads: 1, cpus: null });
  console.log(JSON.stringify(native.deviceDescribe(device)));
  native.deviceClose(device);`;

/** Loads the kernels in a child process: a binary that does not suit this machine would take the whole program down with it. */
export async function checkNativeKernels(): Promise<Check> {
  const here = path.dirname(fileURLToPath(import.meta.url));
  const child = spawn(process.execPath, ['--input-type=module', '-e', probe], { cwd: here, stdio: ['ignore', 'pipe', 'pipe'] });
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
  const fix = 'rebuild them: npm run build';
  if (signal) return failed('native kernels', `loading them was ended by ${signal}`, fix);
  if (status !== 0) return failed('native kernels', errors.match(/^\w*Error.*$/m)?.[0] ?? `loading them failed with status ${status}`, fix);
  const device = JSON.parse(output) as { backend: string; isa: string; abi: number };
  return ok('native kernels', `${device.backend}, ${device.isa}, ABI ${device.abi}`);
}
