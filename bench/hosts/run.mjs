// Switchyard over several hosts of the test bed: contiguous against optimised plans, with and without replicas, beside what the cost model predicts.
//   node bench/hosts/run.mjs [--workloads text,replay] [--hosts 2,4] [--plans …] [--rates 250,1000] [--delays 250,1000] [--batches 1,8,32]
//                            [--cores-per-host N] [--warm-rounds 30] [--rounds N] [--attempts 3]
//                            [--cache DIR] [--parts DIR] [--again] [--out bench/results/hosts | --no-report]
// Every (workload, hosts, rate) is measured on its own, its plans beside one another and the calibration of the cost model in their midst; all is kept in --parts, and what is there already, by the same settings, is not
// measured again without --again, so that a run may be cut into pieces. The report is made of all parts. Needs root, iproute2 and a C compiler.
// With --cores-per-host each host's workers have the machine's next N CPUs to themselves and everything else has what is left; such parts make a report of their own.
// --warm-rounds, --rounds (3 at least) and --attempts bound how long a run takes.
import { execFileSync } from 'node:child_process';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { bedRefusal, startBed } from '../../test/hosts/bed/bed.mjs';
import { startCluster } from '../../test/hosts/bed/cluster.mjs';
import { divideCores, stayOn } from '../../test/hosts/bed/cores.mjs';
import { commandOf } from '../command.mjs';
import { calibrate } from './calibration.mjs';
import { fullEffort, measureBeside, warm } from './measure.mjs';
import { openParts } from './parts.mjs';
import { planKinds, planOf } from './plans.mjs';
import { calibrationName, partName, writeReport } from './report.mjs';
import { replayWorkload, textWorkload } from './workloads.mjs';

const root = path.resolve(path.dirname(new URL(import.meta.url).pathname), '../..');
const { values: flags } = parseArgs({
  options: {
    workloads: { type: 'string', default: 'text,replay' },
    hosts: { type: 'string', default: '2,4' },
    plans: { type: 'string', default: Object.keys(planKinds).join(',') },
    rates: { type: 'string', default: '250,1000' },
    delays: { type: 'string', default: '250,1000' },
    batches: { type: 'string', default: '1,8,32' },
    network: { type: 'string', default: 'switch' },
    transport: { type: 'string', default: 'tcp' },
    'cores-per-host': { type: 'string' },
    'warm-rounds': { type: 'string', default: String(fullEffort.warmRoundsMax) },
    rounds: { type: 'string', default: String(fullEffort.roundsMax) },
    attempts: { type: 'string', default: String(fullEffort.attemptsMax) },
    cache: { type: 'string', default: path.join(os.tmpdir(), 'switchyard-hosts-cache') },
    parts: { type: 'string', default: path.join(os.tmpdir(), 'switchyard-hosts-parts') },
    again: { type: 'boolean', default: false },
    out: { type: 'string', default: path.join(root, 'bench/results/hosts') },
    report: { type: 'boolean', default: true },
  },
  allowNegative: true,
});
const numbers = (text) => text.split(',').map(Number);
const coresPerHost = flags['cores-per-host'] === undefined ? null : Number(flags['cores-per-host']);
const effort = { warmRoundsMax: Number(flags['warm-rounds']), roundsMax: Number(flags.rounds), attemptsMax: Number(flags.attempts) };
const refusal = bedRefusal({ network: flags.network });
if (refusal !== null) {
  process.stderr.write(`no test bed: ${refusal}\n`);
  process.exit(2);
}
const madeBy = {
  commit: commit(),
  date: new Date().toISOString().slice(0, 10),
  machine: `${os.cpus().length} × ${os.cpus()[0].model}, Linux ${os.release().split('-')[0]}, Node ${process.version}`,
};
const { cache: _cache, parts: _parts, again, report, out, ...deciding } = flags;
const { batches, delays, transport, 'warm-rounds': warmRounds, rounds, attempts } = flags;
const { keep, has } = openParts(flags.parts, {
  settings: { batches, delays, transport, warmRounds, rounds, attempts },
  command: commandOf('bench/hosts/run.mjs', deciding),
  madeBy,
  again,
});
/** Where there is no git, who brought the files there says which they are. */
function commit() {
  return process.env.SWITCHYARD_COMMIT ?? execFileSync('git', ['describe', '--always', '--dirty'], { cwd: root, encoding: 'utf8' }).trim();
}
const openWorkload = {
  text: async () => {
    const bed = await startBed({ hosts: 1 });
    try {
      return await textWorkload(bed, flags.cache);
    } finally {
      await bed.stop();
    }
  },
  replay: () => replayWorkload(flags.cache),
};

for (const name of flags.workloads.split(',')) {
  const workload = await openWorkload[name]();
  const kinds = flags.plans.split(',');
  for (const hosts of numbers(flags.hosts))
    for (const rateMbit of numbers(flags.rates)) {
      const what = { workload: name, hosts, network: flags.network, rateMbit, coresPerHost };
      if ([calibrationName(what), ...kinds.map((kind) => partName({ ...what, kind }))].every(has)) continue;
      for (const part of await measureParts(workload, hosts, kinds, rateMbit)) keep(partName(part), part);
    }
}
if (report) await writeReport({ parts: flags.parts, coresPerHost, out, openWorkload });

function delaysOf() {
  return flags.network === 'veth' ? [0] : numbers(flags.delays);
}

/**
 * All cells at one bit rate: a cluster for each plan, on the same hosts, measured in turns; and between prompts and decoding the calibration, on hosts of its own.
 * What is there so far is kept after every cell, so that a run that is cut short was not for nothing.
 */
async function measureParts(workload, hosts, kinds, rateMbit) {
  const startedMs = performance.now();
  const delays = delaysOf();
  const cores = coresPerHost === null ? null : divideCores(Math.max(2, hosts), coresPerHost);
  if (cores !== null) stayOn(cores.rest);
  const cpus = cores?.hosts ?? null;
  const bed = await startBed({ hosts, network: flags.network, rateMbit, delayMicros: delays[0] });
  const { network } = flags;
  const parts = kinds.map((kind) => {
    const plan = planOf(workload, hosts, kind, flags.cache);
    return { workload: workload.name, hosts, kind, plan, network, transport, rateMbit, coresPerHost, links: [], cells: [] };
  });
  const clusters = [];
  let calibrated = false;
  try {
    for (const [number, { plan }] of parts.entries())
      clusters.push(
        await startCluster(bed, {
          ...{ model: workload.model, plan, replay: workload.replay, transport, cpus, number },
          coordinatorFlags: ['--no-prefix-cache', '--draft-max', '0'],
        }),
      );
    let first = 1_000_000 + rateMbit;
    const warming = Array.from({ length: 16 }, (_, i) => workload.request(first + i, 64, workload.decodeTokens));
    for (const cluster of clusters) await warm(cluster, warming, effort);
    for (const delayMicros of delays) {
      await bed.setLink({ rateMbit, delayMicros });
      const link = { delayMicros, ...(await bed.measure(0, hosts - 1, Math.max(4, rateMbit / 50))) };
      for (const part of parts) part.links.push(link);
      for (const phase of ['prefill', 'decode']) {
        if (phase === 'decode' && !calibrated) {
          keep(calibrationName(parts[0]), await calibrate(workload, { hosts, network, rateMbit, delayMicros, cpus, effort }));
          calibrated = true;
        }
        for (const batch of numbers(flags.batches)) {
          first = (delayMicros * 7 + batch) * 100 + (phase === 'decode' ? 50_000 : 0);
          const cells = await measureBeside(bed, clusters, workload, { phase, batch, first }, effort);
          for (const [p, cell] of cells.entries()) {
            parts[p].cells.push({ delayMicros, ...cell });
            process.stderr.write(
              `${workload.name}, ${hosts} hosts, ${parts[p].kind}, ${rateMbit} Mb/s, ${delayMicros} us: ${phase} ${batch}: ${cell.tokensPerSecond.toFixed(1)} tokens/s, r ${cell.r.toFixed(3)}\n`,
            );
            keep(partName(parts[p]), parts[p], false);
          }
        }
      }
    }
  } finally {
    for (const cluster of clusters) await cluster.stop();
    await bed.stop();
  }
  const seconds = (performance.now() - startedMs) / 1000;
  return parts.map((part) => ({ ...part, seconds }));
}
