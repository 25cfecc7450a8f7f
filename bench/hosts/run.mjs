// Switchyard over several hosts of the test bed: contiguous against optimised plans, with and without replicas, beside what the cost model predicts.
//   node bench/hosts/run.mjs [--workloads text,replay] [--hosts 2,4] [--plans …] [--rates 250,1000] [--delays 250,1000] [--batches 1,8,32]
//                            [--cache DIR] [--parts DIR] [--again] [--out bench/results/hosts | --no-report]
// Every (workload, hosts, rate) is measured on its own, its plans beside one another, and so is every piece of a calibration; all is kept in --parts, and what is there already is not measured again
// without --again, so that a run may be cut into pieces. The report is made of all parts. Needs root, iproute2 and a C compiler.
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { bedRefusal, startBed } from '../../test/hosts/bed/bed.mjs';
import { startCluster } from '../../test/hosts/bed/cluster.mjs';
import { calibrationOf, calibrationPieces } from './calibration.mjs';
import { measureBeside } from './measure.mjs';
import { planKinds, planOf } from './plans.mjs';
import { writeReport } from './report.mjs';
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
const keep = (name, part) => writeFileSync(path.join(flags.parts, `${name}.json`), JSON.stringify(part));
const has = (name) => !flags.again && existsSync(path.join(flags.parts, `${name}.json`));
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
  await calibrate(workload);
  const kinds = flags.plans.split(',');
  for (const hosts of numbers(flags.hosts))
    for (const rateMbit of numbers(flags.rates)) {
      const partOf = (kind) => [name, hosts, kind.replace(/\W+/g, '-'), flags.network, rateMbit].join('_');
      if (kinds.every((kind) => has(partOf(kind)))) continue;
      for (const part of await measureParts(workload, hosts, kinds, rateMbit)) keep(partOf(part.kind), part);
    }
}
if (flags.report) await writeReport({ parts: flags.parts, cache: flags.cache, out: flags.out, openWorkload });

function delaysOf() {
  return flags.network === 'veth' ? [0] : numbers(flags.delays);
}

/** Each piece is kept by itself, and all together, also those of other rates, where the report looks for them. */
async function calibrate(workload) {
  const rates = numbers(flags.rates);
  const pieces = calibrationPieces(workload, { network: flags.network, rates, delayMicros: delaysOf()[0] });
  const fileOf = (piece) => `piece-${workload.name}-${piece}`;
  for (const [piece, measure] of Object.entries(pieces)) if (!has(fileOf(piece))) keep(fileOf(piece), await measure());
  const read = (piece) => JSON.parse(readFileSync(path.join(flags.parts, `${fileOf(piece)}.json`), 'utf8'));
  const names = readdirSync(flags.parts);
  const among = new RegExp(`^${fileOf('among')}-(\\d+)\\.json$`);
  const measured = names
    .flatMap((name) => among.exec(name)?.[1] ?? [])
    .filter((rate) => names.includes(`${fileOf(`between-${rate}`)}.json`));
  const ascending = measured.map(Number).sort((a, b) => a - b);
  keep(`calibration-${workload.name}`, calibrationOf(workload, ascending, read));
}

/** All cells at one bit rate: a cluster for each plan, on the same hosts, measured in turns. */
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
  try {
    for (const [number, { plan }] of parts.entries())
      clusters.push(
        await startCluster(bed, {
          ...{ model: workload.model, plan, replay: workload.replay, transport, number },
          coordinatorFlags: ['--no-prefix-cache'],
        }),
      );
    // Code is compiled, connections have opened their windows.
    let first = 1_000_000 + rateMbit;
    const warming = Array.from({ length: 16 }, (_, i) => workload.request(first + i, 64, workload.decodeTokens));
    for (const cluster of clusters) await cluster.batch(warming);
    for (const delayMicros of delays) {
      await bed.setLink({ rateMbit, delayMicros });
      const link = { delayMicros, ...(await bed.measure(0, hosts - 1, Math.max(4, rateMbit / 50))) };
      for (const part of parts) part.links.push(link);
      for (const phase of ['prefill', 'decode'])
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
  } finally {
    for (const cluster of clusters) await cluster.stop();
    await bed.stop();
  }
  return parts.map((part) => ({ ...part, seconds: (performance.now() - startedMs) / 1000 }));
}
