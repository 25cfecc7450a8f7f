/**
 * Runs `count` jobs with at most `concurrency` at once, each starting the moment another ends, as that many clients in a loop would. Stops handing out jobs
 * when `signal` aborts; those under way end by themselves. Results keep the order of the jobs.
 */
export async function closedLoop<T>(
  count: number,
  concurrency: number,
  signal: AbortSignal,
  job: (index: number) => Promise<T>,
): Promise<T[]> {
  const results: T[] = [];
  let next = 0;
  const client = async () => {
    while (next < count && !signal.aborted) {
      const index = next++;
      results[index] = await job(index);
    }
  };
  await Promise.all(Array.from({ length: Math.min(concurrency, count) }, client));
  return results.filter((result) => result !== undefined);
}
