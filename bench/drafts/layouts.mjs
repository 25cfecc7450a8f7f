// Where the benchmarks of guessing run: servers of the bundled model beside each other, on this machine or over hosts of a test bed.
import { execFile } from 'node:child_process';
import os from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { startBed } from '../../test/hosts/bed/bed.mjs';
import { startCluster } from '../../test/hosts/bed/cluster.mjs';
import { divideCores, stayOn } from '../../test/hosts/bed/cores.mjs';
import { onHosts } from '../hosts/workloads.mjs';
import { startServer } from '../peers/servers.mjs';

const ofHosts = /^(\d+)@(\d+)(?:\/(\d+))?$/;
const ofWorkers = /^(\d+)x(\d+)(?::(.+))?$/;

/**
 * Starts a server for each number of `draftMaxes`, in that order.
 *
 * @param layout NODESxWORKERS[:BACKEND] on this machine, where a worker has one thread, or with a backend its part of all CPUs but four;
 *   or HOSTS@MBIT[/CORES]: a host each, with 0.25 ms between them, in a test bed that needs root and iproute2, and with so many cores to itself
 * @param folder for logs
 * @returns `servers`, each with its `url`; `run`, which starts a program where it reaches them and gives what it prints; `stop`
 */
export async function startLayout(layout, { model, draftMaxes, folder }) {
  const bed = ofHosts.exec(layout);
  if (bed !== null) return startOnHosts({ hosts: Number(bed[1]), rateMbit: Number(bed[2]), cores: bed[3] }, { model, draftMaxes });
  const [, nodes, workers, backend] = ofWorkers.exec(layout);
  const threads = backend === undefined ? 1 : Math.max(1, Math.floor((os.cpus().length - 4) / (nodes * workers)));
  const where = ['--nodes', nodes, '--workers-per-node', workers, ...(backend === undefined ? [] : ['--backend', backend])];
  const servers = [];
  for (const [i, draftMax] of draftMaxes.entries()) {
    const extra = [...where, '--draft-max', draftMax];
    servers.push(await startServer('switchyard', { model, port: 8960 + i, threads, extra }, path.join(folder, `${i}.log`)));
  }
  const run = async (args) => (await promisify(execFile)(process.execPath, args.map(String), { maxBuffer: 1 << 26 })).stdout;
  return { servers, run, stop: async () => Promise.all(servers.map(({ stop }) => stop())) };
}

async function startOnHosts({ hosts, rateMbit, cores }, { model, draftMaxes }) {
  const divided = cores === undefined ? null : divideCores(hosts, Number(cores));
  if (divided !== null) stayOn(divided.rest);
  const bed = await startBed({ hosts, rateMbit, delayMicros: 250 });
  const servers = [];
  try {
    for (const [number, draftMax] of draftMaxes.entries()) {
      const coordinatorFlags = ['--draft-max', draftMax];
      servers.push(await startCluster(bed, { model, plan: onHosts(model, hosts), coordinatorFlags, cpus: divided?.hosts ?? null, number }));
    }
  } catch (error) {
    await bed.stop();
    throw error;
  }
  return {
    servers,
    run: (args) => bed.run(0, process.execPath, args),
    stop: async () => {
      for (const { stop } of servers) await stop();
      await bed.stop();
    },
  };
}

export function nameOf(layout) {
  const bed = ofHosts.exec(layout);
  if (bed !== null) return `${bed[1]} hosts${bed[3] === undefined ? '' : ` of ${bed[3]} cores`}, ${bed[2]} Mb/s, 0.25 ms one way`;
  const [, nodes, workers, backend] = ofWorkers.exec(layout);
  return `${nodes} x ${workers} workers${backend === undefined ? '' : ` (${backend})`}, one machine`;
}
