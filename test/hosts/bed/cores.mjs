// Cores of their own for hosts that are really one machine, where it has more than they need: then a slow network decides, as it does between machines, and not who has a core.
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';

/** CPU numbers that this process may run on, those of one core beside one another: a container or a parent may have left it some of the machine's. */
function allowedCpus() {
  const [, list] = /^Cpus_allowed_list:\s*(.*)$/m.exec(readFileSync('/proc/self/status', 'utf8'));
  const cpus = list.split(',').flatMap((range) => {
    const [from, to = from] = range.split('-').map(Number);
    return Array.from({ length: to - from + 1 }, (_, i) => from + i);
  });
  return cpus.sort((a, b) => coreOf(a) - coreOf(b) || a - b);
}

/** The first CPU of the same core: what two threads of one core do at the same time costs both. */
function coreOf(cpu) {
  const file = `/sys/devices/system/cpu/cpu${cpu}/topology/thread_siblings_list`;
  return existsSync(file) ? Number.parseInt(readFileSync(file, 'utf8'), 10) : cpu;
}

/**
 * The first CPUs, so many for each host; what is left is for everything that is no host's: the network, the API, clients, and who measures.
 *
 * @returns {hosts: [list of CPUs, …], rest: list of CPUs}, as `taskset` reads them
 */
export function divideCores(hosts, coresPerHost) {
  const cpus = allowedCpus();
  const taken = hosts * coresPerHost;
  if (!(coresPerHost >= 1 && taken < cpus.length))
    throw new Error(`${hosts} hosts of ${coresPerHost} cores, and one for the rest, are more than the ${cpus.length} cores here`);
  const list = (from, to) => cpus.slice(from, to).join(',');
  return { hosts: Array.from({ length: hosts }, (_, h) => list(h * coresPerHost, (h + 1) * coresPerHost)), rest: list(taken) };
}

/** This process and what it starts from now on run on those CPUs. */
export function stayOn(cpus) {
  execFileSync('taskset', ['--all-tasks', '--cpu-list', '--pid', cpus, process.pid], { stdio: ['ignore', 'ignore', 'pipe'] });
}
