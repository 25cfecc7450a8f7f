/**
 * Kernels that a worker can run: `cpu`; `cpu-ref`, the slow oracle; `cuda:N`, whose experts live on GPU N of the machine (`cuda` is `cuda:0`) while all else
 * runs on the CPU; `cuda-emulated`, the GPU's kernels thread by thread on the CPU, for tests. All give the same bits, so a cluster may mix them.
 */
export type Backend = 'cpu' | 'cpu-ref' | 'cuda' | 'cuda-emulated' | `cuda:${number}`;

/** What is accepted, for messages. */
export const backendNames = 'cpu, cpu-ref, cuda or cuda:N';

export function isBackend(name: string): name is Backend {
  return ['cpu', 'cpu-ref', 'cuda', 'cuda-emulated'].includes(name) || /^cuda:\d{1,3}$/.test(name);
}
