// Switchyard over several hosts of the test bed: contiguous against optimised plans, with and without replicas, beside what the cost model predicts.
//   node bench/hosts/run.mjs [--workloads text,replay] [--hosts 2,4] [--plans …] [--rates 250,1000] [--delays 250,1000] [--batches 1,8,32]
//                            [--cache DIR] [--parts DIR] [--again] [--out bench/results/hosts | --no-report]
// Every (workload, hosts, rate) is measured on its own, its plans beside one another and the calibration of the cost model in their midst; all is kept in --parts, and what is there already is not
// measured again without --again, so that a run may be cut into pieces. The report is made of all parts. Needs root, iproute2 and a C compiler.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { bedRefusal, startBed } from '../../test/hosts/bed/bed.mjs';
import { startCluster } from '../../test/hosts/bed/cluster.mjs';
import { calibrate } from './calibration.mjs';
import { measureBeside, warm } from './measure.mjs';
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
    cache: { type: 'string', default: path.join(os.tmpdir(), 'switchyard-hosts-cache') },
    parts: { type: 'string', default: path.join(os.tmpdir(), 'switchyard-hosts-parts') },
    again: { type: 'boolean', default: false },
    out: { type: 'string', default: path.join(root, 'bench/results/hosts') },
    report: { type: 'boolean', default: true },
  },
  allowNegative: true,
});
const numbers = (text) => text.split(',').map(Number);
const refusal = bedRefusal({ network: flags.network });
if (refusal !== null) {
  process.stderr.write(`no test bed: ${refusal}\n`);
  process.exit(2);
}
mkdirSync(flags.parts, { recursive: true });
const madeBy = {
  commit: execFileSync('git', ['describe', '--always', '--dirty'], { cwd: root, encoding: 'utf8' }).trim(),
  date: new Date().toISOString().slice(0, 10),
  machine: `${os.cpus().length} × ${os.cpus()[0].model}, Linux ${os.release()}, Node ${process.version}`,
};
const keep = (name, part) => writeFileSync(path.join(flags.parts, `${name}.json`), JSON.stringify({ ...part, madeBy }));
/** A part that does not say what made it is none. */
function has(name) {
  const file = path.join(flags.parts, `${name}.json`);
  return !flags.again && existsSync(file) && JSON.parse(readFileSync(file, 'utf8')).madeBy !== undefined;
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
      const what = { workload: name, hosts, network: flags.network, rateMbit };
      if ([calibrationName(what), ...kinds.map((kind) => partName({ ...what, kind }))].every(has)) continue;
      const { parts, calibration } = await measureParts(workload, hosts, kinds, rateMbit);
      keep(calibrationName(what), calibration);
      for (const part of parts) keep(partName(part), part);
    }
}
if (flags.report) await writeReport({ parts: flags.parts, cache: flags.cache, out: flags.out, openWorkload });

function delaysOf() {
  return flags.network === 'veth' ? [0] : numbers(flags.delays);
}

/** All cells at one bit rate: a cluster for each plan, on the same hosts, measured in turns; and between prompts and decoding the calibration, on hosts of its own. */
async function measureParts(workload, hosts, kinds, rateMbit) {
  const startedMs = performance.now();
  const delays = delaysOf();
  const bed = await startBed({ hosts, network: flags.network, rateMbit, delayMicros: delays[0] });
  const { network, transport } = flags;
  const parts = kinds.map((kind) => {
    const plan = planOf(workload, hosts, kind, flags.cache);
    return { workload: workload.name, hosts, kind, plan, network, transport, rateMbit, links: [], cells: [] };
  });
  const clusters = [];
  let calibration;
  try {
    for (const [number, { plan }] of parts.entries())
      clusters.push(
        await startCluster(bed, {
          ...{ model: workload.model, plan, replay: workload.replay, transport, number },
          coordinatorFlags: ['--no-prefix-cache'],
        }),
      );
    let first = 1_000_000 + rateMbit;
    const warming = Array.from({ length: 16 }, (_, i) => workload.request(first + i, 64, workload.decodeTokens));
    for (const cluster of clusters) await warm(cluster, warming);
    for (const delayMicros of delays) {
      await bed.setLink({ rateMbit, delayMicros });
      const link = { delayMicros, ...(await bed.measure(0, hosts - 1, Math.max(4, rateMbit / 50))) };
      for (const part of parts) part.links.push(link);
      for (const phase of ['prefill', 'decode']) {
        if (phase === 'decode') calibration ??= await calibrate(workload, { network, rateMbit, delayMicros });
        for (const batch of numbers(flags.batches)) {
          first = (delayMicros * 7 + batch) * 100 + (phase === 'decode' ? 50_000 : 0);
          const cells = await measureBeside(bed, clusters, workload, { phase, batch, first });
          for (const [p, cell] of cells.entries()) {
            parts[p].cells.push({ delayMicros, ...cell });
            process.stderr.write(
              `${workload.name}, ${hosts} hosts, ${parts[p].kind}, ${rateMbit} Mb/s, ${delayMicros} us: ${phase} ${batch}: ${cell.tokensPerSecond.toFixed(1)} tokens/s, r ${cell.r.toFixed(3)}\n`,
            );
          }
        }
      }
    }
  } finally {
    for (const cluster of clusters) await cluster.stop();
    await bed.stop();
  }
  const seconds = (performance.now() - startedMs) / 1000;
  return { calibration, parts: parts.map((part) => ({ ...part, seconds })) };
}
