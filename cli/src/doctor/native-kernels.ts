import { spawn } from 'node:child_process';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { formatBytes } from '../terminal/quantity.ts';
import type { Check } from './check.ts';
import { failed, ok } from './check.ts';

/** Says what the kernels are, and what GPU 0 is or why there is none. */
const probe = `
  const { native } = await import('@switchyard/native');
  const describe = (backend) => {
    const device = native.deviceOpen({ backend, isa: 'auto', threads: 1, cpus: null });
    const description = native.deviceDescribe(device);
    native.deviceClose(device);
    return description;
  };
  const cpu = describe('cpu');
  try {
    console.log(JSON.stringify({ cpu, gpu: describe('cuda') }));
  } catch (error) {
    console.log(JSON.stringify({ cpu, noGpu: error.message }));
  }`;

interface Found {
  cpu: { backend: string; isa: string; abi: number };
  gpu?: { accelerator: string; acceleratorBytes: number };
  noGpu?: string;
}

/** Loads the kernels in a child process: a binary that does not suit this machine would take the whole program down with it. */
export async function checkNativeKernels(): Promise<Check[]> {
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
  if (signal) return [failed('native kernels', `loading them was ended by ${signal}`, fix)];
  if (status !== 0)
    return [failed('native kernels', errors.match(/^\w*Error.*$/m)?.[0] ?? `loading them failed with status ${status}`, fix)];
  const { cpu, gpu, noGpu } = JSON.parse(output) as Found;
  return [
    ok('native kernels', `${cpu.backend}, ${cpu.isa}, ABI ${cpu.abi}`),
    gpu
      ? ok('GPU', `${gpu.accelerator}, ${formatBytes(gpu.acceleratorBytes)}: --backend cuda puts experts there`)
      : { name: 'GPU', status: 'absent', found: `none: ${noGpu?.replace(/^backend = "cuda": /, '')}`, fix: null },
  ];
}
