import { type BackendTrial, tryBackends } from '../cluster/backend-trial.ts';
import { formatBytes } from '../terminal/quantity.ts';
import type { Check } from './check.ts';
import { failed, ok, warning } from './check.ts';

export async function checkNativeKernels(): Promise<Check[]> {
  const fix = 'rebuild them: npm run build';
  try {
    const [cpu, gpu] = await tryBackends(['cpu', 'cuda']);
    if (!cpu?.found) return [failed('native kernels', cpu?.refusal ?? 'they say nothing', fix)];
    return [describeCpu(cpu.found), describeGpu(gpu!)];
  } catch (error) {
    return [failed('native kernels', (error as Error).message, fix)];
  }
}

/** Scalar code is for processors that the vector kernels do not know: right, and slow. */
export function describeCpu({ isa, abi }: NonNullable<BackendTrial['found']>): Check {
  const found = `cpu, ${isa}, ABI ${abi}`;
  if (isa !== 'scalar') return ok('native kernels', found);
  return warning('native kernels', found, 'the same bits come many times as fast from an x86-64 processor with AVX2 or AVX-512');
}

function describeGpu({ found, refusal, trouble }: BackendTrial): Check {
  if (found) return ok('GPU', `${found.accelerator}, ${formatBytes(found.acceleratorBytes ?? 0)}: --backend cuda puts experts there`);
  if (trouble === 'failed') return warning('GPU', `it cannot be used: ${refusal}`, 'see with nvidia-smi whether its driver works');
  if (trouble === 'busy') return warning('GPU', `it cannot be used now: ${refusal}`, 'see with nvidia-smi which program uses it');
  return { name: 'GPU', status: 'absent', found: `none: ${refusal?.replace(/^backend = "[^"]*": /, '')}`, fix: null };
}
