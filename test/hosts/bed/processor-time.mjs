import { readdirSync, readFileSync } from 'node:fs';

/** Processor seconds of a process so far, over its threads, in the kernel's nanoseconds: /proc/PID/stat counts in hundredths of a second, which is a whole step. */
export function processorSecondsOf(pid) {
  let nanoseconds = 0;
  for (const thread of readdirSync(`/proc/${pid}/task`))
    nanoseconds += Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ')[0]);
  return nanoseconds / 1e9;
}

/** How often a process has gone to sleep, its main thread alone: where it had nothing to do and waited for something to come. */
export function sleepsOf(pid) {
  return Number(/^voluntary_ctxt_switches:\s*(\d+)/m.exec(readFileSync(`/proc/${pid}/task/${pid}/status`, 'utf8'))[1]);
}
