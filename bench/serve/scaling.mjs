// The same load on 1, 2 and 4 workers, and exact sums beside fast ones: tokens per second, bytes per token, and where the time of a step goes.
//   node bench/serve/scaling.mjs [--model DIR] [--rounds 2] [--concurrency 1,8,32] [--out bench/results/scaling]
// Every worker has one thread, so that the workers differ in number alone; with fewer CPUs than workers they share them. Rounds alternate the clusters, so that
// a machine that slows down slows all of them; each figure is the best of its rounds.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { commandOf } from '../command.mjs';
import { atEnd } from '../leftovers.mjs';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');
const cli = path.join(root, 'cli/dist/main.js');
const { values: flags } = parseArgs({
  options: {
    model: { type: 'string' },
    rounds: { type: 'string', default: '2' },
    concurrency: { type: 'string', default: '1,8,32' },
    'prompt-tokens': { type: 'string', default: '64' },
    'output-tokens': { type: 'string', default: '64' },
    out: { type: 'string', default: path.join(root, 'bench/results/scaling') },
  },
});

const clusters = [
  { name: '1 worker', flags: ['--nodes', '1', '--workers-per-node', '1'] },
  { name: '1 worker, fast sum', flags: ['--nodes', '1', '--workers-per-node', '1', '--sum', 'fast'] },
  { name: '2 workers, 1 node', flags: ['--nodes', '1', '--workers-per-node', '2'] },
  { name: '2 workers, 2 nodes', flags: ['--nodes', '2', '--workers-per-node', '1'] },
  { name: '4 workers, 2 nodes', flags: ['--nodes', '2', '--workers-per-node', '2'] },
  { name: '4 workers, 2 nodes, fast sum', flags: ['--nodes', '2', '--workers-per-node', '2', '--sum', 'fast'] },
];

const folder = mkdtempSync(path.join(os.tmpdir(), 'scaling-'));
atEnd(() => rmSync(folder, { recursive: true, force: true }));
const rounds = [];
for (let round = 0; round < Number(flags.rounds); round++) {
  for (const cluster of clusters) {
    const file = path.join(folder, 'report.json');
    const args = [
      ...['bench', 'serve', '--concurrency', flags.concurrency, '--out', file],
      ...['--prompt-tokens', flags['prompt-tokens'], '--output-tokens', flags['output-tokens']],
      ...['--', '--threads', '1', ...cluster.flags, ...(flags.model ? ['--model', flags.model] : [])],
    ];
    const done = spawnSync(process.execPath, [cli, ...args], { stdio: ['ignore', 'pipe', 'pipe'], encoding: 'utf8' });
    if (done.status !== 0)
      throw new Error(`${cluster.name}: bench serve exited with ${done.status}: ${done.stdout.slice(-1000)} ${done.stderr.slice(-1000)}`);
    rounds.push({
      round,
      cluster: cluster.name,
      command: `switchyard ${args.filter((a) => a !== file && a !== '--out').join(' ')}`,
      report: JSON.parse(readFileSync(file, 'utf8')),
    });
    process.stderr.write(`scaling: round ${round + 1}, ${cluster.name} done\n`);
  }
}

const first = rounds[0].report;
const concurrencies = first.levels.map((level) => level.concurrency);
const rows = clusters.flatMap(({ name }) =>
  concurrencies.map((concurrency) => {
    const levels = rounds.filter((r) => r.cluster === name).map((r) => r.report.levels.find((level) => level.concurrency === concurrency));
    return { name, ...levels.reduce((a, b) => (b.outputTokensPerSecond > a.outputTokensPerSecond ? b : a)) };
  }),
);
const baseline = (concurrency) => rows.find((row) => row.concurrency === concurrency).outputTokensPerSecond;
const activities = Object.keys(rows[0].time?.seconds ?? {});
const perStep = (row, activity) => ((1000 * row.time.seconds[activity]) / row.time.steps).toFixed(2);
const table = [
  `| cluster | clients | out tok/s | of 1 worker | ITL p50 ms | TTFT p50 ms | bytes/token | cross-node | round trip µs | ${activities.map((a) => `${a} ms/step`).join(' | ')} |`,
  `|${' --- |'.repeat(9 + activities.length)}`,
  ...rows.map(
    (row) =>
      `| ${row.name} | ${row.concurrency} | ${row.outputTokensPerSecond.toFixed(0)} | ${(row.outputTokensPerSecond / baseline(row.concurrency)).toFixed(2)} | ${row.interTokenMs.p50.toFixed(2)} | ${row.timeToFirstTokenMs.p50.toFixed(1)} | ${row.wire.bytesPerToken.toFixed(0)} | ${row.wire.crossNodeBytesPerToken.toFixed(0)} | ${row.wire.roundTripMicroseconds.toFixed(0)} | ${activities.map((a) => perStep(row, a)).join(' | ')} |`,
  ),
];
const { machine, target, workload } = first;
const command = commandOf('bench/serve/scaling.mjs', flags);
const text = `# Scaling: 1, 2 and 4 workers

${target.model}, class ${target.numericClass}, ${workload.promptTokens} prompt tokens (${workload.prompts}), ${workload.outputTokens} output tokens; ${machine.cpu}, ${machine.cpus} CPUs, Node ${machine.node}; ${new Date().toISOString().slice(0, 10)}.
One thread a worker. Best of ${flags.rounds} alternating rounds. On a machine with fewer CPUs than workers more workers cannot be faster: what the table shows then is what the exchange costs. \`exchange_wait\` is the time in which a home had nothing to do but wait for its rows.

    ${command}

${table.join('\n')}
`;
writeFileSync(`${flags.out}.md`, text);
writeFileSync(
  `${flags.out}.json`,
  `${JSON.stringify({ format: 'switchyard-bench-scaling', version: 1, command, machine, rounds }, null, 1)}\n`,
);
process.stdout.write(text);
