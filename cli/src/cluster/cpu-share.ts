export interface CpuShare {
  threads: number;
  /** CPU numbers to pin the threads to, or null: the operating system decides. */
  cpus: number[] | null;
}

/**
 * Divides `cpus` over `workers`: contiguous ranges, as even as possible, so that a worker's threads share caches; one worker gets them all. With more workers
 * than CPUs each has one thread, and none is pinned: a pinned thread would wait for its neighbour while another CPU is free. `threadsWanted` sets the
 * threads of every worker by hand, likewise unpinned when there are not enough CPUs.
 */
export function shareCpus(cpus: readonly number[], workers: number, threadsWanted: number | null): CpuShare[] {
  const crowded = workers > cpus.length || (threadsWanted ?? 0) * workers > cpus.length;
  if (crowded) return Array.from({ length: workers }, () => ({ threads: threadsWanted ?? 1, cpus: null }));
  return Array.from({ length: workers }, (_, w) => {
    const from = Math.floor((w * cpus.length) / workers);
    const to = Math.floor(((w + 1) * cpus.length) / workers);
    const share = cpus.slice(from, threadsWanted === null ? to : from + threadsWanted);
    return { threads: share.length, cpus: share };
  });
}
