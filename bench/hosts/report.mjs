// All parts of a run as one table and one JSON file, each cell beside its prediction.
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { median } from '../median.mjs';
import { disturbedMax } from './measure.mjs';
import { planKinds } from './plans.mjs';
import { floorsOf, hostModelOf, measuredSeconds, predictCell } from './prediction.mjs';

const kinds = Object.keys(planKinds);
const within = 0.15;

/** Files of `--parts`, without their ending. */
export const partName = ({ workload, hosts, kind, ...where }) =>
  [workload, hosts, kind.replace(/\W+/g, '-'), ...placeNames(where)].join('_');
export const calibrationName = ({ workload, hosts, ...where }) => ['calibration', workload, hosts, ...placeNames(where)].join('_');
const placeNames = ({ network, rateMbit, coresPerHost = null }) => [
  network,
  rateMbit,
  ...(coresPerHost === null ? [] : [`own${coresPerHost}`]),
];

/** @param coresPerHost that hosts had to themselves, or null where all share the machine's: parts of others are left out */
export async function writeReport({ parts, coresPerHost, out, openWorkload }) {
  const read = (name) => JSON.parse(readFileSync(path.join(parts, name), 'utf8'));
  const names = readdirSync(parts).filter((name) => name.endsWith('.json'));
  const groups = [];
  const uncalibrated = [];
  const workloads = {};
  for (const name of Object.keys(openWorkload)) {
    const all = names.filter((n) => n.startsWith(`${name}_`)).map(read);
    const measured = all.filter((part) => (part.coresPerHost ?? null) === coresPerHost);
    if (measured.length === 0) continue;
    const workload = await openWorkload[name]();
    for (const part of measured) {
      const calibration = calibrationName(part);
      if (!names.includes(`${calibration}.json`)) {
        uncalibrated.push(part);
        continue;
      }
      workloads[name] ??= { title: workload.title, models: {} };
      workloads[name].models[calibration] ??= await hostModelOf(read(`${calibration}.json`), workload);
      const model = workloads[name].models[calibration];
      const cells = [];
      for (const cell of part.cells) {
        const predicted = await predictCell(part, cell, workload, model);
        const { topologyRowBytes } = predicted;
        const formula = cell.r * workload.moeLayers.length * topologyRowBytes;
        const floors = await floorsOf(part, cell, workload, model);
        cells.push({ ...withoutWorkers(cell), predicted, floors, measuredSeconds: measuredSeconds(cell), formulaBytesPerToken: formula });
      }
      const { plan: _plan, ...rest } = part;
      groups.push({ ...rest, cells });
    }
  }
  if (groups.length === 0) throw new Error(`${parts} has no part to report on that is calibrated: measure it to its end`);
  writeFileSync(`${out}.json`, `${JSON.stringify({ workloads, parts: groups }, null, 1)}\n`);
  writeFileSync(`${out}.md`, text(groups, uncalibrated, workloads, coresPerHost, out));
}

const commandsOf = (groups) => [...new Set(groups.flatMap(({ command }) => (command === undefined ? [] : [`\`${command}\``])))];

/** Parts may have been measured on different days, and of different states of the project. */
function madeBy(groups) {
  const runs = groups.map(({ madeBy: { commit, date, machine } }) => `${date}, commit ${commit}, ${machine}`);
  return [...new Set(runs)].join('; ');
}

function withoutWorkers({ workers, sequences: _sequences, ...cell }) {
  return { ...cell, steps: workers.map(({ steps }) => steps), workerSeconds: workers.map(({ seconds }) => seconds) };
}

/** Who has which cores, and what made the parts. */
export function setting(groups, coresPerHost) {
  const links = [...new Set(groups.map(({ transport }) => transport))].join(' and ');
  const hosts = `Hosts are network namespaces on one machine, one worker of one thread each, links by ${links}; the coordinator and the clients run on the first.`;
  const runs = [...commandsOf(groups), madeBy(groups)].join('; ');
  if (coresPerHost === null)
    return [
      `${hosts} All hosts share the cores, so that`,
      `a slow network decides what a fast machine would find on a faster one. Clusters are warm. ${runs}.`,
    ];
  return [
    `${hosts} Each host's worker has`,
    `${coresPerHost} of the machine's cores to itself; the network, the coordinator and the clients share the others. Clusters are warm. ${runs}.`,
  ];
}

/** Of a run that was cut short: what is there, and what cannot be predicted. */
export function cutShort(groups, uncalibrated) {
  const named = (parts) => parts.map(partName).join(', ');
  const cut = groups.filter(({ whole }) => whole === false);
  return [
    ...(cut.length === 0 ? [] : [`Cut short, so that cells are missing: ${named(cut)}.`]),
    ...(uncalibrated.length === 0 ? [] : [`Left out, cut short before their calibration: ${named(uncalibrated)}.`]),
  ];
}

function text(groups, uncalibrated, workloads, coresPerHost, out) {
  const lines = [
    '# Several hosts',
    '',
    ...setting(groups, coresPerHost),
    ...cutShort(groups, uncalibrated),
    '',
    'tokens/s of all streams, the median round; plans take turns round by round, and `x`, over contiguous, is the median of their ratios within a round; `predicted` is the step time that the cost model gives over the measured one, for the homes that the coordinator chose.',
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
  lines.push(...floors(cells, coresPerHost), ...predictionSummary(cells, coresPerHost), ...goals(cells));
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
      const gain = base === undefined || c === base ? '' : ` (${gainOf(base, c).toFixed(2)}x)`;
      const ratio = c.predicted.seconds / c.measuredSeconds;
      return [`${number(c.tokensPerSecond)}${gain}`, c.r.toFixed(2), kib(c.frameBytesPerToken), ratio.toFixed(2)];
    });
    return `| ${linkName(any)} | ${any.phase} ${any.batch} | ${figures.join(' | ')} |`;
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

/** What the cores and the network need of a cell's time, each if the other were free: whichever needs more decides what a plan can gain. */
function floors(cells, coresPerHost) {
  const rows = pairs(cells).map(([base, c]) => {
    const needs = (one) => [one.measuredSeconds, one.floors.cores, one.floors.network].map((s) => (1000 * s).toPrecision(3)).join(' | ');
    const deciding = base.floors.network > base.floors.cores ? 'network' : 'cores';
    const gain = gainOf(base, c).toFixed(2);
    const most = (base.floors.network / c.floors.network).toFixed(2);
    return `| ${labels(c)} | ${needs(base)} | ${needs(c)} | ${deciding} | ${gain}x | ${most}x |`;
  });
  return [
    `## What decides, ${mostHosts(cells)} hosts`,
    '',
    ...(coresPerHost === null
      ? [
          'Milliseconds of a decode step, or of a prefill. `cores`: what the measured processor time (waiting awake left out; with the API, the client and the program that carries the packets) takes of all',
          'cores together if none of them ever waits. `network`: the same requests with processors that need no time, over links of the same bit rate and delay. No plan can be faster than either; where the',
        ]
      : [
          'Milliseconds of a decode step, or of a prefill. `cores`: the measured processor time (waiting awake left out) of the program that took most: a worker, the API or its client, or what carries the',
          'packets. `network`: the same requests with processors that need no time, over links of the same bit rate and delay. No plan can be faster than either; where the',
        ]),
    'cores need more, fewer bytes save little, and `x without cores` is what the plan would gain if only the network counted.',
    '',
    '| workload | link | | contiguous | cores | network | optimised + 25% | cores | network | decides | x | x without cores |',
    '| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |',
    ...rows,
    '',
  ];
}

/** What a plan is for: of several numbers of hosts the largest is judged. */
const mostHosts = (cells) => Math.max(...cells.map((c) => c.hosts));

/** Cells of the plan with replicas on the most hosts, each after its contiguous counterpart. */
function pairs(cells) {
  const same = ['workload', 'hosts', 'network', 'rateMbit', 'delayMicros', 'phase', 'batch'];
  return cells
    .filter((one) => one.kind === 'optimised + 25%' && one.hosts === mostHosts(cells))
    .map((c) => [cells.find((b) => b.kind === 'contiguous' && same.every((key) => b[key] === c[key])), c])
    .filter(([base]) => base !== undefined);
}

/** Over contiguous, round by round: rounds of one cell differ more than the two do within one. */
function gainOf(base, c) {
  return median(c.roundTokensPerSecond.map((rate, round) => rate / base.roundTokensPerSecond[round]));
}

const linkName = (c) => (c.rateMbit >= 10_000 ? '10 Gb/s' : `${c.rateMbit} Mb/s, ${c.delayMicros / 1000} ms`);
const labels = (c) => `${c.workload} | ${linkName(c)} | ${c.phase} ${c.batch}`;

function predictionSummary(cells, coresPerHost) {
  const off = cells.map((c) => Math.abs(c.predicted.seconds / c.measuredSeconds - 1));
  const good = off.filter((e) => e <= within).length;
  const spread = median(cells.map((c) => (Math.max(...c.roundTokensPerSecond) - Math.min(...c.roundTokensPerSecond)) / c.tokensPerSecond));
  const disturbed = cells.filter((c) => c.disturbed > disturbedMax).length;
  return [
    '## The cost model',
    '',
    `Predicted step time within ${100 * within} % of the measured one in ${good} of ${cells.length} cells; median error ${(100 * median(off)).toFixed(0)} %, largest ${(100 * Math.max(...off)).toFixed(0)} %.`,
    `Rounds of one cell differ by ${(100 * spread).toFixed(0)} % from slowest to fastest (median of cells); a cell is its median round. In ${disturbed} cells other programs, or other machines on the same hardware, had more than ${100 * disturbedMax} % of the cores' time each time that they were measured.`,
    'The model is calibrated in the midst of the cells of each bit rate, on hosts of their own beside those of the plans.',
    ...(coresPerHost === null
      ? [
          'It is measured on one host alone (kernels, steps, requests), between two hosts and between more than there are cores, experts in contiguous ranges (frames, waking up, what the bed itself takes of the cores, how late it delivers), and on hosts that exchange nothing but share the cores.',
          'What a step waits for without any processor time to show for it (the scheduler, caches that others have filled) is one factor for decoding and one for prompts, found on the calibration with more hosts than cores.',
        ]
      : [
          'It is measured on one host alone (kernels, steps, requests), between two hosts and between as many as are predicted, experts in contiguous ranges (frames, waking up, what the bed itself takes of the cores, how late it delivers), and on as many that exchange nothing but share caches and memory.',
          'What a step waits for without any processor time to show for it (the scheduler, cores that wake up) is one factor for decoding and one for prompts, found on the calibration with as many hosts as are predicted.',
        ]),
    "Its requests are of other sequences than those that are measured. It is told the bed's delay, the bit rate that a TCP connection gets, and how many bytes an answer's row took in each cell (the width that holds a sum depends on its value).",
    'Workers wait awake for frames that come close together; they count that time, and it is no part of the fit: any other program can have it.',
    '',
  ];
}

/** What the plan with replicas is worth on the most hosts, beside what the model says it should be. */
function goals(cells) {
  let reached = 0;
  let near = 0;
  const rows = pairs(cells).map(([base, c]) => {
    const gain = gainOf(base, c);
    const predicted = base.predicted.seconds / c.predicted.seconds;
    if (gain >= predicted) reached++;
    if (Math.abs(predicted / gain - 1) <= within) near++;
    return `| ${labels(c)} | ${gain.toFixed(2)}x | ${predicted.toFixed(2)}x |`;
  });
  return [
    `## Optimised + 25 % over contiguous, ${mostHosts(cells)} hosts`,
    '',
    `The gain is predicted within ${100 * within} % in ${near} of ${rows.length} cells; it is at least the predicted one in ${reached}.`,
    '',
    '| workload | link | | measured | predicted |',
    '| --- | --- | --- | --- | --- |',
    ...rows,
    '',
  ];
}

const kib = (bytes) => (bytes / 1024).toFixed(1);
const number = (value) => (value >= 100 ? Math.round(value).toLocaleString('en-US') : value.toFixed(1));
