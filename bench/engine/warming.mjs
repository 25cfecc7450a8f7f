// How soon fresh workers are at their best: two checkouts of the project, built, in turns on this machine, from the first token on.
// `node bench/engine/warming.mjs --with DIR [--layouts 2x1,2x2] [--transport tcp] [--batches 1,8] [--rounds 12] [--repeats 3] [--out bench/results/engine-warming]`
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
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
    layouts: { type: 'string', default: '2x1,2x2' },
    transport: { type: 'string', default: 'tcp' },
    batches: { type: 'string', default: '1,8' },
    rounds: { type: 'string', default: '12' },
    repeats: { type: 'string', default: '3' },
    out: { type: 'string', default: path.join(root, 'bench/results/engine-warming') },
  },
});
if (flags.with === undefined) {
  process.stderr.write('--with: the other checkout\n');
  process.exit(2);
}
const checkouts = [path.resolve(flags.with), root];
const programs = checkouts.map((checkout) => path.join(checkout, 'worker/dist/main.js'));
const commits = checkouts.map((cwd) => execFileSync('git', ['describe', '--always', '--dirty'], { cwd, encoding: 'utf8' }).trim());
const config = JSON.parse(readFileSync(path.join(flags.model, 'config.json'), 'utf8'));
const { moeLayers, experts } = inspectModel(flags.model);
const model = { type: config.model_type, vocab: config.vocab_size, moeLayers, experts };
const rounds = Number(flags.rounds);
const repeats = Number(flags.repeats);
const promptTokens = 16;
const produce = 128;

/** Tokens/s of each round of fresh workers of both checkouts, in turns: [checkout][round][repeat]. */
async function measure(nodes, workersPerNode, batch) {
  const speeds = programs.map(() => Array.from({ length: rounds }, () => []));
  for (let repeat = 0; repeat < repeats; repeat++) {
    const clusters = [];
    for (const program of programs)
      clusters.push(
        await startCluster(flags.model, model, { workers: nodes * workersPerNode, nodes, transport: flags.transport }, program),
      );
    for (let round = 0; round < rounds; round++)
      for (const i of (round + repeat) % 2 === 0 ? [0, 1] : [1, 0])
        speeds[i][round].push((batch * produce) / (await clusters[i].run(batch, promptTokens, produce, [repeat, round])));
    for (const cluster of clusters) await cluster.close();
  }
  return speeds;
}

const cells = [];
for (const layout of flags.layouts.split(','))
  for (const batch of flags.batches.split(',').map(Number)) {
    const speeds = await measure(...layout.split('x').map(Number), batch);
    cells.push({ layout, batch, speeds });
    process.stderr.write(
      `${layout}, ${batch} streams: ${speeds.map((own) => own.map((r) => median(r).toFixed(0)).join(' ')).join('  |  ')}\n`,
    );
  }

const row = ({ layout, batch, speeds: [other, own] }) => {
  const shown = own.map((r, i) => `${Math.round(median(other[i]))} → ${Math.round(median(r))}`);
  const ratios = own.map((r, i) => r.map((speed, k) => speed / other[i][k]));
  const [first, last] = [ratios.slice(0, 4), ratios.slice(-4)].map((some) => median(some.flat()).toFixed(2));
  return `| ${layout} | ${batch} | ${shown.join(' | ')} | ${first}x | ${last}x |`;
};
const numbers = Array.from({ length: rounds }, (_, i) => i + 1);
const command = commandOf('bench/engine/warming.mjs', flags, { with: 'OTHER' });
const text = [
  '# Fresh workers',
  '',
  `\`${command}\`, model ${path.basename(flags.model)}, ${new Date().toISOString().slice(0, 10)}, ${os.cpus().length} × ${os.cpus()[0].model}, Node ${process.version}.`,
  `Worker processes of one thread on this machine, over ${flags.transport}, contiguous plan, no HTTP. Tokens/s of each round of ${produce} tokens a stream, from the first on: medians of ${repeats}`,
  `starts. OTHER (${commits[0]}) → this one (${commits[1]}); ratios within a round: of the first four rounds, and of the last four.`,
  '',
  `| nodes x workers | streams | ${numbers.join(' | ')} | first | last |`,
  `| --- | --- | ${numbers.map(() => '---').join(' | ')} | --- | --- |`,
  ...cells.map(row),
  '',
].join('\n');
writeFileSync(`${flags.out}.md`, text);
writeFileSync(`${flags.out}.json`, `${JSON.stringify({ command, commits, cells }, null, 1)}\n`);
process.stdout.write(text);
