import { readdirSync, readFileSync } from 'node:fs';

/** Processor seconds of a process so far, over its threads, in the kernel's nanoseconds: /proc/PID/stat counts in hundredths of a second, which is a whole step. */
export function processorSecondsOf(pid) {
  let nanoseconds = 0;
  for (const thread of readdirSync(`/proc/${pid}/task`))
    nanoseconds += Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ')[0]);
  return nanoseconds / 1e9;
}
