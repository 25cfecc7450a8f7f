import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import os from 'node:os';

/** The CPUs that this process may use: what `taskset` or a container left of them, where the kernel tells. */
export function availableCpus(): number[] {
  try {
    const allowed = /^Cpus_allowed_list:\s*(\S+)/m.exec(readFileSync('/proc/self/status', 'utf8'));
    if (allowed) return parseCpuList(allowed[1]);
  } catch {
    // Not Linux: there is no such file.
  }
  return Array.from({ length: os.availableParallelism() }, (_, cpu) => cpu);
}

/** The kernel's list format: "0-3,8,10-11". */
export function parseCpuList(text: string): number[] {
  return text.split(',').flatMap((range) => {
    const [from, to = from] = range.split('-').map(Number);
    return Array.from({ length: to - from + 1 }, (_, i) => from + i);
  });
}

/**
 * Names of the memories beside these CPUs: one a NUMA node, equal in two processes exactly when the same kernel runs both, in whatever containers, and the memory is
 * the same. A machine that does not tell has one.
 *
 * @param nodes where the kernel tells of its NUMA nodes
 */
export function memoriesBeside(cpus: readonly number[], nodes = '/sys/devices/system/node'): string[] {
  const machine = createHash('sha256').update(bootId()).digest('hex').slice(0, 12);
  const beside = numaNodes(nodes).filter((node) => node.cpus.some((cpu) => cpus.includes(cpu)));
  return beside.length === 0 ? [machine] : beside.map(({ name }) => `${machine} ${name}`);
}

function numaNodes(folder: string): { name: string; cpus: number[] }[] {
  try {
    const names = readdirSync(folder).filter((name) => /^node\d+$/.test(name));
    return names.map((name) => ({ name, cpus: parseCpuList(readFileSync(`${folder}/${name}/cpulist`, 'utf8').trim()) }));
  } catch {
    return [];
  }
}

/** Of this boot of this machine. Not Linux: its name. */
export function bootId(): string {
  try {
    return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  } catch {
    return os.hostname();
  }
}
