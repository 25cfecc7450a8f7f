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

/** 256 KiB, which stays in a core's own cache. */
const paceValues = new Float64Array(32 * 1024).fill(1.000001);
const paceRuns = 5;
let paceSum = 0;

/**
 * How long a core takes now for a fixed piece of arithmetic on its own cache: the least of a few runs, so that a program that came between does not count. Cores of
 * a virtual machine have neighbours, and are a quarter slower at one time than at another.
 */
export function paceSeconds() {
  let least = Infinity;
  for (let run = 0; run < paceRuns; run++) {
    const startedMs = performance.now();
    for (let pass = 0; pass < 64; pass++) paceSum += sumOfProducts(paceValues);
    least = Math.min(least, (performance.now() - startedMs) / 1000);
  }
  return Number.isFinite(paceSum) ? least : Number.NaN;
}

/** Four chains, so that a core's units are busy and not waiting for one another. */
function sumOfProducts(values) {
  let a = 0;
  let b = 0;
  let c = 0;
  let d = 0;
  for (let i = 0; i < values.length; i += 4) {
    a += values[i] * values[i];
    b += values[i + 1] * values[i + 1];
    c += values[i + 2] * values[i + 2];
    d += values[i + 3] * values[i + 3];
  }
  return a + b + c + d;
}
