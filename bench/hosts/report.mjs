// All parts of a run as one table and one JSON file, each cell beside its prediction.
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { planKinds } from './plans.mjs';
import { hostModelOf, measuredSeconds, predictCell } from './prediction.mjs';

const root = path.resolve(path.dirname(new URL(import.meta.url).pathname), '../..');
const kinds = Object.keys(planKinds);
const within = 0.15;

export async function writeReport({ parts, out, openWorkload }) {
  const read = (name) => JSON.parse(readFileSync(path.join(parts, name), 'utf8'));
  const names = readdirSync(parts).filter((name) => name.endsWith('.json'));
  const groups = [];
  const workloads = {};
  for (const name of Object.keys(openWorkload)) {
    if (!names.includes(`calibration-${name}.json`)) continue;
    const workload = await openWorkload[name]();
    const model = await hostModelOf(read(`calibration-${name}.json`), workload);
    workloads[name] = { title: workload.title, ...model, links: [...model.links].map(([rateMbit, costs]) => ({ rateMbit, ...costs })) };
    for (const part of names.filter((n) => n.startsWith(`${name}_`)).map(read)) {
      const cells = [];
      for (const cell of part.cells) {
        const predicted = await predictCell(part, cell, workload, model);
        const { topologyRowBytes } = predicted;
        const formula = cell.r * workload.moeLayers.length * topologyRowBytes;
        cells.push({ ...withoutWorkers(cell), predicted, measuredSeconds: measuredSeconds(cell), formulaBytesPerToken: formula });
      }
      const { plan: _plan, ...rest } = part;
      groups.push({ ...rest, cells });
    }
  }
  const machine = {
    cpu: os.cpus()[0].model,
    cores: os.cpus().length,
    memoryBytes: os.totalmem(),
    node: process.version,
    kernel: os.release(),
  };
  const commit = execFileSync('git', ['rev-parse', '--short', 'HEAD'], { cwd: root, encoding: 'utf8' }).trim();
  const date = new Date().toISOString().slice(0, 10);
  writeFileSync(`${out}.json`, `${JSON.stringify({ date, commit, machine, workloads, parts: groups }, null, 1)}\n`);
  writeFileSync(`${out}.md`, text(groups, workloads, machine, date, out));
}

function withoutWorkers({ workers, sequences: _sequences, ...cell }) {
  return { ...cell, steps: workers.map(({ steps }) => steps), workerSeconds: workers.map(({ seconds }) => seconds) };
}

function text(groups, workloads, machine, date, out) {
  const lines = [
    '# Several hosts',
    '',
    `Hosts are network namespaces on one machine of ${machine.cores} cores (${machine.cpu}), one worker of one thread each, links by TCP; the coordinator and the clients run on the first. All`,
    'hosts share the cores, so that a slow network decides what a fast machine would find on a faster one. `node bench/hosts/run.mjs`; ' +
      `${date}, Linux ${machine.kernel}, Node ${machine.node}.`,
    '',
    'tokens/s of all streams; `x` is over contiguous in the same cell; `predicted` is the step time that the cost model gives over the measured one, for the homes that the coordinator chose.',
    `Homes are chosen by the coordinator from the domain that each request declares. Plans are made by \`switchyard place\` from sequences that are not measured.`,
    '',
  ];
  const cells = groups.flatMap((part) => part.cells.map((cell) => ({ ...part, ...cell })));
  for (const [name, { title }] of Object.entries(workloads))
    for (const hosts of [...new Set(cells.filter((c) => c.workload === name).map((c) => c.hosts))].sort())
      lines.push(
        ...table(
          cells.filter((c) => c.workload === name && c.hosts === hosts),
          `${title}: ${hosts} hosts`,
        ),
      );
  lines.push(...occupancy(cells, machine.cores), ...predictionSummary(cells), ...goals(cells));
  if (existsSync(`${out}-peers.md`))
    lines.push(`Peers over the same hosts: [${path.basename(out)}-peers.md](${path.basename(out)}-peers.md).`, '');
  return lines.join('\n');
}

function table(cells, title) {
  const shown = kinds.filter((kind) => cells.some((c) => c.kind === kind));
  const keyOf = (c) => `${c.network} ${c.rateMbit} ${c.delayMicros} ${c.phase} ${c.batch}`;
  const keys = [...new Set(cells.map(keyOf))];
  const order = (key) => {
    const c = cells.find((one) => keyOf(one) === key);
    return [c.network === 'veth' ? 1 : 0, c.rateMbit, c.delayMicros, c.phase === 'prefill' ? 0 : 1, c.batch];
  };
  keys.sort((a, b) => {
    const [x, y] = [order(a), order(b)];
    const at = x.findIndex((v, i) => v !== y[i]);
    return at < 0 ? 0 : x[at] - y[at];
  });
  const rows = keys.map((key) => {
    const of = (kind) => cells.find((c) => c.kind === kind && keyOf(c) === key);
    const base = of('contiguous');
    const any = shown.map(of).find(Boolean);
    const figures = shown.flatMap((kind) => {
      const c = of(kind);
      if (c === undefined) return ['', '', '', ''];
      const gain = base === undefined || c === base ? '' : ` (${(c.tokensPerSecond / base.tokensPerSecond).toFixed(2)}x)`;
      const ratio = c.predicted.seconds / c.measuredSeconds;
      return [`${number(c.tokensPerSecond)}${gain}`, c.r.toFixed(2), kib(c.frameBytesPerToken), ratio.toFixed(2)];
    });
    return `| ${any.rateMbit >= 10_000 ? '10 Gb/s' : `${any.rateMbit} Mb/s, ${any.delayMicros / 1000} ms`} | ${any.phase} ${any.batch} | ${figures.join(' | ')} |`;
  });
  return [
    `## ${title}`,
    '',
    `| link | | ${shown.map((kind) => `${kind}: tokens/s | r | KiB/token | predicted`).join(' | ')} |`,
    `| --- | --- | ${shown.map(() => '--- | --- | --- | ---').join(' | ')} |`,
    ...rows,
    '',
  ];
}

/** What was busy: the cores that all hosts share, and of the hosts' links the busiest. Neither full: latency, and turns that were waited for. */
function occupancy(cells, cores) {
  const rows = cells
    .filter((c) => c.hosts === 4 && c.delayMicros <= 250 && ['contiguous', 'optimised + 25%'].includes(c.kind))
    .map((c) => {
      const { workers, outside, network } = c.processorSeconds;
      const busy = (workers.reduce((a, b) => a + b, 0) + outside + network) / (cores * c.elapsedSeconds);
      const link = (8 * Math.max(...c.wireBytes)) / (c.rateMbit * 1e6 * c.elapsedSeconds);
      return `| ${c.workload} | ${c.kind} | ${c.rateMbit} Mb/s | ${c.phase} ${c.batch} | ${percent(busy)} | ${percent(link)} |`;
    });
  return [
    '## What was busy, 4 hosts',
    '',
    'Where the cores are busier than the links, fewer bytes save little: they pay where links are.',
    '',
    '| workload | plan | link | | cores | busiest link |',
    '| --- | --- | --- | --- | --- | --- |',
    ...rows,
    '',
  ];
}

function predictionSummary(cells) {
  const off = cells.map((c) => Math.abs(c.predicted.seconds / c.measuredSeconds - 1));
  const good = off.filter((e) => e <= within).length;
  const sorted = [...off].sort((a, b) => a - b);
  return [
    '## The cost model',
    '',
    `Predicted step time within ${100 * within} % of the measured one in ${good} of ${cells.length} cells; median error ${(100 * sorted[sorted.length >> 1]).toFixed(0)} %, largest ${(100 * sorted.at(-1)).toFixed(0)} %.`,
    "It is calibrated on one host alone (kernels, steps, requests), between two (frames, waking up, what the bed itself takes of the cores) and on hosts that exchange nothing but share the cores, and knows the bed's delay and the bit rate that a TCP connection gets.",
    'Workers wait awake for frames that come close together. The fit takes the processor time of that waiting for work, so decoding is predicted too slow where kernels are small.',
    '',
  ];
}

/** What the plan with replicas is worth at 4 hosts, beside what the model says it should be. */
function goals(cells) {
  const rows = [];
  for (const c of cells.filter((one) => one.kind === 'optimised + 25%' && one.hosts === 4)) {
    const base = cells.find(
      (b) =>
        b.kind === 'contiguous' &&
        ['workload', 'hosts', 'network', 'rateMbit', 'delayMicros', 'phase', 'batch'].every((key) => b[key] === c[key]),
    );
    if (base === undefined) continue;
    const gain = base.measuredSeconds / c.measuredSeconds;
    const predicted = base.predicted.seconds / c.predicted.seconds;
    rows.push(
      `| ${c.workload} | ${c.rateMbit} Mb/s, ${c.delayMicros / 1000} ms | ${c.phase} ${c.batch} | ${gain.toFixed(2)}x | ${predicted.toFixed(2)}x |`,
    );
  }
  return [
    '## Optimised + 25 % over contiguous, 4 hosts',
    '',
    '| workload | link | | measured | predicted |',
    '| --- | --- | --- | --- | --- |',
    ...rows,
    '',
  ];
}

const percent = (share) => `${(100 * share).toFixed(0)} %`;
const kib = (bytes) => (bytes / 1024).toFixed(1);
const number = (value) => (value >= 100 ? Math.round(value).toLocaleString('en-US') : value.toFixed(1));
