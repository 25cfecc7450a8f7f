// Where the benchmarks of guessing run: servers of the bundled model beside each other, on this machine or over hosts of a test bed.
import { execFile } from 'node:child_process';
import path from 'node:path';
import { promisify } from 'node:util';
import { startBed } from '../../test/hosts/bed/bed.mjs';
import { startCluster } from '../../test/hosts/bed/cluster.mjs';
import { onHosts } from '../hosts/workloads.mjs';
import { startServer } from '../peers/servers.mjs';

const ofHosts = /^(\d+)@(\d+)$/;

/**
 * Starts a server for each number of `draftMaxes`, in that order.
 *
 * @param layout NODESxWORKERS on this machine, or HOSTS@MBIT: a host each, with 0.25 ms between them, in a test bed that needs root and iproute2
 * @param folder for logs
 * @returns `servers`, each with its `url`; `run`, which starts a program where it reaches them and gives what it prints; `stop`
 */
export async function startLayout(layout, { model, draftMaxes, folder }) {
  const bed = ofHosts.exec(layout);
  if (bed !== null) return startOnHosts(Number(bed[1]), Number(bed[2]), { model, draftMaxes });
  const [nodes, workers] = layout.split('x');
  const servers = [];
  for (const [i, draftMax] of draftMaxes.entries()) {
    const extra = ['--nodes', nodes, '--workers-per-node', workers, '--draft-max', draftMax];
    servers.push(await startServer('switchyard', { model, port: 8960 + i, threads: 1, extra }, path.join(folder, `${i}.log`)));
  }
  const run = async (args) => (await promisify(execFile)(process.execPath, args.map(String), { maxBuffer: 1 << 26 })).stdout;
  return { servers, run, stop: async () => Promise.all(servers.map(({ stop }) => stop())) };
}

async function startOnHosts(hosts, rateMbit, { model, draftMaxes }) {
  const bed = await startBed({ hosts, rateMbit, delayMicros: 250 });
  const servers = [];
  try {
    for (const [number, draftMax] of draftMaxes.entries()) {
      const coordinatorFlags = ['--draft-max', draftMax];
      servers.push(await startCluster(bed, { model, plan: onHosts(model, hosts), coordinatorFlags, number }));
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
  if (ofHosts.test(layout)) return layout.replace(ofHosts, '$1 hosts, $2 Mb/s, 0.25 ms one way');
  return layout.replace(/(\d+)x(\d+)/, '$1 x $2 workers, one machine');
}
