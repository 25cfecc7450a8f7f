// What guessing next tokens brings: two servers of the same layout, one with --draft-max 0, asked the same in turn. On the bundled model and text of its domains that
// it has not seen; greedy and sampled.
//   node bench/drafts/run.mjs [--layouts 1x1,2x2,4@1000,4@250] [--batches 1,8,32] [--temperatures 0,0.8] [--rounds 4] [--out bench/results/drafts]
// Half of the rounds are measured with the one server started first, half with the other: of two alike one may be faster all its life, for where its memory lies.
// For layouts: layouts.mjs.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { commandOf } from '../command.mjs';
import { atEnd } from '../leftovers.mjs';
import { median } from '../median.mjs';
import { warmUp } from '../warm-up.mjs';
import { nameOf, startLayout } from './layouts.mjs';
import { unseenPieces } from './unseen-text.mjs';

const root = path.resolve(path.dirname(new URL(import.meta.url).pathname), '../..');
const cli = path.join(root, 'cli/dist/main.js');
const model = path.join(root, 'models/shunter-16m');
const { values: flags } = parseArgs({
  options: {
    layouts: { type: 'string', default: '1x1,2x2,4@1000,4@250' },
    batches: { type: 'string', default: '1,8,32' },
    temperatures: { type: 'string', default: '0,0.8' },
    rounds: { type: 'string', default: '4' },
    'output-tokens': { type: 'string', default: '128' },
    out: { type: 'string', default: path.join(root, 'bench/results/drafts') },
  },
});
const numbers = (list) => list.split(',').map(Number);
if (!(Number(flags.rounds) > 0 && Number(flags.rounds) % 2 === 0)) {
  process.stderr.write(`--rounds ${flags.rounds}: it must be even, for half of them are measured with each order of starting\n`);
  process.exit(2);
}
const draftMaxOf = { none: 0, guessing: 16 };

const folder = mkdtempSync(path.join(os.tmpdir(), 'switchyard-drafts-'));
atEnd(() => rmSync(folder, { recursive: true, force: true }));
const text = path.join(folder, 'text.txt');
writeFileSync(text, unseenPieces(model, 400).join('\n'));

let seed = 0;
const cells = flags.layouts
  .split(',')
  .flatMap((layout) =>
    numbers(flags.temperatures).flatMap((temperature) => numbers(flags.batches).map((batch) => newCell(layout, temperature, batch))),
  );
for (const layout of flags.layouts.split(','))
  for (const kinds of [
    ['none', 'guessing'],
    ['guessing', 'none'],
  ])
    await measureLayout(layout, kinds);
process.stdout.write(readFileSync(`${flags.out}.md`, 'utf8'));

function newCell(layout, temperature, batch) {
  return { layout, temperature, batch, speeds: { none: [], guessing: [] }, generated: 0, drafted: 0, right: 0 };
}

/** Half of the rounds of every cell of a layout. */
async function measureLayout(layout, kinds) {
  const draftMaxes = kinds.map((kind) => draftMaxOf[kind]);
  const { servers: started, run, stop } = await startLayout(layout, { model, draftMaxes, folder });
  const servers = Object.fromEntries(kinds.map((kind, i) => [kind, started[i]]));
  const load = async (kind, batch, temperature, own) => {
    const lengths = ['--prompt-tokens', 128, '--output-tokens', flags['output-tokens'], '--requests', Math.max(16, 2 * batch)];
    const how = ['--concurrency', batch, '--temperature', temperature, '--seed', own];
    const [level] = JSON.parse(
      await run([cli, 'bench', 'serve', '--url', servers[kind].url, '--json', '--text', text, ...how, ...lengths]),
    ).levels;
    if (level.errors > 0) throw new Error(`${layout}, ${kind}: ${JSON.stringify(level.errorMessages)}`);
    return level.outputTokensPerSecond;
  };
  const counts = async () => {
    // Workers report once a second.
    await new Promise((resolve) => setTimeout(resolve, 1500));
    const metrics = await run(['-e', `fetch('${servers.guessing.url}/metrics').then((r) => r.text()).then((t) => console.log(t))`]);
    const total = (name) =>
      [...metrics.matchAll(new RegExp(`^switchyard_${name}\\{[^}]*\\} (\\d+)`, 'gm'))].reduce((sum, [, n]) => sum + Number(n), 0);
    return {
      generated: total('generation_tokens_total'),
      drafted: total('spec_decode_num_draft_tokens_total'),
      right: total('spec_decode_num_accepted_tokens_total'),
    };
  };
  try {
    for (const kind of kinds) await warmUp(() => load(kind, Math.max(...numbers(flags.batches)), 0, ++seed), { roundsMax: 6 });
    for (const cell of cells.filter((one) => one.layout === layout)) {
      const before = await counts();
      for (let round = 0; round < Number(flags.rounds) / 2; round++) {
        seed++;
        // Who goes first changes from round to round.
        for (const kind of round % 2 === 0 ? kinds : kinds.toReversed())
          cell.speeds[kind].push(await load(kind, cell.batch, cell.temperature, seed));
      }
      const after = await counts();
      for (const field of ['generated', 'drafted', 'right']) cell[field] += after[field] - before[field];
      process.stderr.write(`${JSON.stringify(cell)}\n`);
      report();
    }
  } finally {
    await stop();
  }
}

/** Writes what has been measured so far: a run that is cut short was not for nothing. */
function report() {
  const measured = cells
    .filter(({ speeds }) => speeds.guessing.length > 0)
    .map((cell) => ({
      ...cell,
      ratios: cell.speeds.guessing.map((speed, i) => speed / cell.speeds.none[i]),
      tokensPerStep: cell.generated / (cell.generated - cell.right),
    }));
  const command = commandOf('bench/drafts/run.mjs', flags);
  const lines = [
    '# Guessing next tokens: the bundled model on text that it has not seen',
    '',
    `Tokens a second over HTTP, medians of ${flags.rounds} rounds in which both servers answer the same requests in turn; the ratio is the median of each round's, with the least and the most. Prompts of 128 tokens, answers of ${flags['output-tokens']}.`,
    '',
    '| workers | temperature | streams | without | guessing | ratio | guesses that were right | tokens a stream gets of a step |',
    '| --- | --- | --- | --- | --- | --- | --- | --- |',
    ...measured.map(({ layout, temperature, batch, speeds, ratios, drafted, right, tokensPerStep }) => {
      const share = drafted === 0 ? '' : `${right} of ${drafted}`;
      const ratio = `${median(ratios).toFixed(2)}x (${Math.min(...ratios).toFixed(2)} to ${Math.max(...ratios).toFixed(2)})`;
      return `| ${nameOf(layout)} | ${temperature} | ${batch} | ${median(speeds.none).toFixed(0)} | ${median(speeds.guessing).toFixed(0)} | ${ratio} | ${share} | ${tokensPerStep.toFixed(2)} |`;
    }),
    '',
    `\`${command}\`; ${os.cpus().length} x ${os.cpus()[0].model}, ${new Date().toISOString().slice(0, 10)}.`,
    '',
  ];
  writeFileSync(`${flags.out}.md`, lines.join('\n'));
  writeFileSync(`${flags.out}.json`, `${JSON.stringify({ command, cells: measured }, null, 1)}\n`);
}
