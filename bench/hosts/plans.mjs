// Placement plans by the project's own command, from sequences that are not measured.
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { digestOf, onHosts } from './workloads.mjs';

const root = path.resolve(path.dirname(new URL(import.meta.url).pathname), '../..');
const cli = path.join(root, 'cli/dist/main.js');

/** Name of a plan -> memory for replicas as a share of one copy of everything; null: experts in contiguous ranges. */
export const planKinds = { contiguous: null, optimised: 0, 'optimised + 25%': 0.25 };

/** The files of the planner's program. */
function planner() {
  const folder = path.join(root, 'placement/dist');
  const files = readdirSync(folder, { recursive: true }).filter((name) => name.endsWith('.js'));
  return files.sort().map((name) => path.join(folder, name));
}

/** Names of the expert rows' sizes and of the links, as `switchyard place` wants them. */
export function topologyOf(workload, hosts, link = { bandwidth: 125e6, latency: 250e-6 }) {
  const { hidden, intermediate } = workload;
  return {
    format: 'switchyard-topology',
    version: 1,
    nodes: Array.from({ length: hosts }, (_, n) => ({
      name: `n${n}`,
      workers: [{ name: `n${n}w0`, expertMemoryBytes: 1e15, relativeSpeed: 1 }],
    })),
    expertBytes: 3 * hidden * intermediate * 2,
    dispatchRowBytes: 2 * hidden,
    combineRowBytes: 2 * hidden,
    intraNode: { bandwidth: 5e9, latency: 5e-6 },
    interNode: link,
    links: null,
  };
}

/** The plan of that kind; kept in the cache folder by the trace that it is made from and the planner that makes it, for the search takes a minute. */
export function planOf(workload, hosts, kind, cacheFolder) {
  const replicas = planKinds[kind];
  if (replicas === undefined) throw new Error(`there is no plan ${kind}; there are ${Object.keys(planKinds).join(', ')}`);
  if (replicas === null) return onHosts(workload.model, hosts);
  const file = path.join(cacheFolder, `plan-${workload.name}-${digestOf(workload.planningTrace, ...planner())}-${hosts}-${replicas}.json`);
  if (!existsSync(file)) {
    const topology = path.join(cacheFolder, `topology-${workload.name}-${hosts}.json`);
    writeFileSync(topology, JSON.stringify(topologyOf(workload, hosts)));
    execFileSync(
      process.execPath,
      [
        ...[cli, 'place', '--trace', workload.planningTrace, '--topology', topology, '--replicas', `${100 * replicas}%`],
        ...['--held-out', '0', '--seed', '1', '--out', file],
      ],
      { stdio: ['ignore', 'ignore', 'inherit'], maxBuffer: 1 << 26 },
    );
  }
  const plan = JSON.parse(readFileSync(file, 'utf8'));
  return { ...plan, model: { ...plan.model, type: workload.type } };
}
