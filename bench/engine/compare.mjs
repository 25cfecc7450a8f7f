// Two checkouts of the project, built, on this machine: their workers take turns at the same requests, so that both saw the same machine.
// `node bench/engine/compare.mjs --with DIR [--rounds 5] [--transports uds,tcp,shm] [--layouts 2x1,2x2] [--batches 1,8] [--out bench/results/engine-compare]`
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { inspectModel } from '../../worker/dist/index.js';
import { commandOf } from '../command.mjs';
import { median } from '../median.mjs';
import { startCluster } from './cluster.mjs';

const root = fileURLToPath(new URL('../..', import.meta.url));
const { values: flags } = parseArgs({
  options: {
    with: { type: 'string' },
    model: { type: 'string', default: path.join(root, 'models/shunter-16m') },
    rounds: { type: 'string', default: '5' },
    transports: { type: 'string', default: 'uds,tcp,shm' },
    layouts: { type: 'string', default: '2x1,2x2' },
    batches: { type: 'string', default: '1,8' },
    out: { type: 'string', default: path.join(root, 'bench/results/engine-compare') },
  },
});
if (flags.with === undefined) {
  process.stderr.write('--with: the other checkout\n');
  process.exit(2);
}
const programs = [path.resolve(flags.with), root].map((checkout) => path.join(checkout, 'worker/dist/main.js'));
const config = JSON.parse(readFileSync(path.join(flags.model, 'config.json'), 'utf8'));
const { moeLayers, experts } = inspectModel(flags.model);
const model = { type: config.model_type, vocab: config.vocab_size, moeLayers, experts };
const promptTokens = 16;
/** Tokens of each stream. */
const produceOf = (batch) => (batch === 1 ? 128 : 48);

/** Of all threads of the workers: processor seconds, and how often one went to sleep. */
function usage(children) {
  const total = { seconds: 0, sleeps: 0 };
  for (const { pid } of children)
    for (const thread of readdirSync(`/proc/${pid}/task`)) {
      const file = (name) => readFileSync(`/proc/${pid}/task/${thread}/${name}`, 'utf8');
      total.seconds += Number(file('schedstat').split(' ')[0]) / 1e9;
      total.sleeps += Number(/^voluntary_ctxt_switches:\s+(\d+)/m.exec(file('status'))[1]);
    }
  return total;
}

async function measure(cluster, batch, round) {
  const produce = produceOf(batch);
  const before = usage(cluster.children);
  const seconds = await cluster.run(batch, promptTokens, produce, [round, batch]);
  const after = usage(cluster.children);
  const tokens = batch * produce;
  return {
    tokensPerSecond: tokens / seconds,
    processorSecondsPer1000: ((after.seconds - before.seconds) / tokens) * 1000,
    sleepsPerToken: (after.sleeps - before.sleeps) / tokens,
  };
}

const cells = [];
for (const layout of flags.layouts.split(','))
  for (const transport of flags.transports.split(',')) {
    const [nodes, workersPerNode] = layout.split('x').map(Number);
    const clusters = [];
    for (const program of programs) {
      const cluster = await startCluster(flags.model, model, { workers: nodes * workersPerNode, nodes, transport }, program);
      await cluster.warm();
      clusters.push(cluster);
    }
    const batches = flags.batches.split(',').map(Number);
    const rounds = new Map(batches.map((batch) => [batch, []]));
    for (let round = 0; round < Number(flags.rounds); round++)
      for (const batch of batches) {
        const pair = [];
        for (const i of round % 2 === 0 ? [0, 1] : [1, 0]) pair[i] = await measure(clusters[i], batch, round);
        rounds.get(batch).push(pair);
      }
    for (const cluster of clusters) await cluster.close();
    for (const [batch, pairs] of rounds) {
      cells.push({ layout, transport, batch, pairs });
      process.stderr.write(`${layout} over ${transport}, batch ${batch}\n`);
    }
  }

const command = commandOf('bench/engine/compare.mjs', flags, { with: 'OTHER' });
const machine = {
  cpu: os.cpus()[0].model,
  cores: os.cpus().length,
  node: process.version,
  kernel: `${os.type()} ${os.release().split('-')[0]}`,
};
const date = new Date().toISOString().slice(0, 10);
const of = (pairs, i, key, digits) => median(pairs.map((pair) => pair[i][key])).toFixed(digits);
const ratio = (pairs, key) => median(pairs.map(([before, after]) => after[key] / before[key])).toFixed(2);
const both = (pairs, key, digits) => `${of(pairs, 0, key, digits)} → ${of(pairs, 1, key, digits)}`;
const text = [
  '# Two checkouts in one run',
  '',
  `\`${command}\`, model ${path.basename(flags.model)}, ${date}, ${machine.cores} × ${machine.cpu}, ${machine.kernel}, Node ${machine.node}.`,
  'Worker processes of one thread on this machine, contiguous plan, no HTTP. Medians of each, and the median of the ratios within a round. OTHER → this one.',
  '',
  '| nodes x workers | transport | streams | tokens/s | ratio | processor seconds per 1,000 tokens | ratio | sleeps a token |',
  '| --- | --- | --- | --- | --- | --- | --- | --- |',
  ...cells.map(
    ({ layout, transport, batch, pairs }) =>
      `| ${layout} | ${transport} | ${batch} | ${both(pairs, 'tokensPerSecond', 0)} | ${ratio(pairs, 'tokensPerSecond')}x | ${both(pairs, 'processorSecondsPer1000', 2)} | ${ratio(pairs, 'processorSecondsPer1000')}x | ${both(pairs, 'sleepsPerToken', 1)} |`,
  ),
  '',
].join('\n');
writeFileSync(`${flags.out}.json`, `${JSON.stringify({ command, machine, date, cells }, null, 1)}\n`);
writeFileSync(`${flags.out}.md`, text);
process.stdout.write(text);
process.exit(0);
