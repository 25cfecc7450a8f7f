import { existsSync, readdirSync, readFileSync } from 'node:fs';

/** Of /proc/stat: USER_HZ is 100 on every Linux. */
const ticksPerSecond = 100;

/** In the kernel's nanoseconds, where it keeps them: /proc/PID/stat counts in hundredths of a second, which is a whole step. */
const inNanoseconds = existsSync('/proc/self/schedstat') && Number(readFileSync('/proc/self/schedstat', 'utf8').split(' ')[0]) > 0;

/** Processor seconds of a process so far, over its threads. */
export function processorSecondsOf(pid) {
  let seconds = 0;
  for (const thread of readdirSync(`/proc/${pid}/task`)) {
    const of = (file) => readFileSync(`/proc/${pid}/task/${thread}/${file}`, 'utf8');
    if (inNanoseconds) seconds += Number(of('schedstat').split(' ')[0]) / 1e9;
    else {
      // After the name, which may hold anything: state, ten numbers, then user and system time.
      const fields = of('stat').split(') ').at(-1).split(' ');
      seconds += (Number(fields[11]) + Number(fields[12])) / ticksPerSecond;
    }
  }
  return seconds;
}

/** Seconds so far of all cores: at work for any program, and wanted but had by another machine on the same hardware. */
export function machineSeconds() {
  const [, user, nice, system, , , irq, softirq, steal] = readFileSync('/proc/stat', 'utf8').split('\n')[0].split(/ +/).map(Number);
  return { busy: (user + nice + system + irq + softirq) / ticksPerSecond, stolen: steal / ticksPerSecond };
}
