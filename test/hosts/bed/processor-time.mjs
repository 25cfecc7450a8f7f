import { readdirSync, readFileSync } from 'node:fs';

/** Of /proc/stat: USER_HZ is 100 on every Linux. */
const ticksPerSecond = 100;

/** Processor seconds of a process so far, over its threads, in the kernel's nanoseconds: /proc/PID/stat counts in hundredths of a second, which is a whole step. */
export function processorSecondsOf(pid) {
  let nanoseconds = 0;
  for (const thread of readdirSync(`/proc/${pid}/task`))
    nanoseconds += Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ')[0]);
  return nanoseconds / 1e9;
}

/** Seconds so far of all cores: at work for any program, and wanted but had by another machine on the same hardware. */
export function machineSeconds() {
  const [, user, nice, system, , , irq, softirq, steal] = readFileSync('/proc/stat', 'utf8').split('\n')[0].split(/ +/).map(Number);
  return { busy: (user + nice + system + irq + softirq) / ticksPerSecond, stolen: steal / ticksPerSecond };
}
