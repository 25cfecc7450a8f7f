// What the step loop and the exchange cost on a small model: exact sums against fast ones in one process, then 1, 2 and 4 worker processes.
// `node bench/engine/run.mjs [--model models/shunter-16m] [--threads 1] [--rounds 5] [--out bench/results/engine]`
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { inspectModel } from '../../worker/dist/index.js';
import { commandOf } from '../command.mjs';
import { measureClusters } from './cluster.mjs';
import { measureOneProcess } from './one-process.mjs';

const root = fileURLToPath(new URL('../..', import.meta.url));
const { values: flags } = parseArgs({
  options: {
    model: { type: 'string', default: path.join(root, 'models/shunter-16m') },
    threads: { type: 'string', default: '1' },
    rounds: { type: 'string', default: '5' },
    out: { type: 'string', default: path.join(root, 'bench/results/engine') },
  },
});
const rounds = Number(flags.rounds);
const threads = Number(flags.threads);
const layouts = [
  { workers: 1, nodes: 1, transport: 'uds' },
  { workers: 2, nodes: 2, transport: 'shm' },
  { workers: 2, nodes: 2, transport: 'uds' },
  { workers: 4, nodes: 2, transport: 'shm' },
  { workers: 4, nodes: 2, transport: 'uds' },
  { workers: 4, nodes: 2, transport: 'tcp' },
  { workers: 4, nodes: 2, transport: 'grpc' },
];

const config = JSON.parse(readFileSync(path.join(flags.model, 'config.json'), 'utf8'));
const inspected = inspectModel(flags.model);
const model = { type: config.model_type, vocab: config.vocab_size, moeLayers: inspected.moeLayers, experts: inspected.experts };

const oneProcess = await measureOneProcess(flags.model, threads, rounds);
const clusters = await measureClusters(flags.model, model, layouts, rounds);

const machine = {
  cpu: os.cpus()[0].model,
  cores: os.cpus().length,
  memoryBytes: os.totalmem(),
  node: process.version,
  kernel: `${os.type()} ${os.release().split('-')[0]}`,
  date: new Date().toISOString().slice(0, 10),
  load: os.loadavg()[0],
};
const command = commandOf('bench/engine/run.mjs', flags);
const whole = (x) => Math.round(x).toLocaleString('en');
const text = [
  '# The step loop and the exchange on a small model',
  '',
  `\`${command}\`, model ${path.basename(flags.model)}, ${machine.date}, ${machine.cores} × ${machine.cpu}, ${machine.kernel}, Node ${machine.node},`,
  `load average ${machine.load.toFixed(1)}. Medians (of prefill: of the best of 8 prompts a round); ratios are taken within a round, then their median. No HTTP: requests come over the control plane or by call. Exact and fast sums get the same prompts.`,
  '',
  `## One process, ${threads} thread${threads === 1 ? '' : 's'}: exact sums against fast ones`,
  '',
  '| | exact, tokens/s | fast, tokens/s | exact / fast | outside the kernels, µs a step |',
  '| --- | --- | --- | --- | --- |',
  ...oneProcess.map(
    (c) =>
      `| ${c.name} | ${whole(c.exactTokensPerSecond)} | ${whole(c.fastTokensPerSecond)} | ${c.exactOverFast.toFixed(3)} | ${(c.outsideKernelsSecondsPerStep * 1e6).toFixed(0)} |`,
  ),
  '',
  '## Worker processes on this machine, one thread each, contiguous plan',
  '',
  'µs a step of one home: attention (with routers and dense layers), waiting for the exchange, experts for own rows, experts for other homes, sampling, other.',
  'Layouts are measured one after another, not in turns: between two rows the machine may have changed.',
  '',
  '| workers | nodes | transport | batch | tokens/s | bytes a token | remote nodes a row | round trip, µs | attention | wait | own experts | others | sampling | other |',
  '| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |',
  ...clusters.map(
    (c) =>
      `| ${c.workers} | ${c.nodes} | ${c.workers === 1 ? '' : c.transport} | ${c.batch} | ${whole(c.tokensPerSecond)} | ${whole(c.bytesPerToken)} | ${c.remoteNodesPerRow.toFixed(2)} | ${whole(c.roundTripSeconds * 1e6)} | ${c.microsecondsPerStep.map(whole).join(' | ')} |`,
  ),
  '',
].join('\n');
mkdirSync(path.dirname(flags.out), { recursive: true });
writeFileSync(`${flags.out}.json`, `${JSON.stringify({ command, machine, oneProcess, clusters }, null, 1)}\n`);
writeFileSync(`${flags.out}.md`, text);
process.stdout.write(text);
process.exit(0);
