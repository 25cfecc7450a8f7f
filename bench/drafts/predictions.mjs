// What a client's prediction brings: the same chat requests to one server without one and with, on the bundled model; the answers are compared, too.
//   node bench/drafts/predictions.mjs [--layouts 1x1,2x2,4@1000] [--batches 1,8] [--temperatures 0.8] [--rounds 4] [--out bench/results/predictions]
// The prediction is the answer itself (`same`), with every tenth word another one (`edited`), or the answer to something else (`wrong`).
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

const here = path.dirname(new URL(import.meta.url).pathname);
const root = path.resolve(here, '../..');
const model = path.join(root, 'models/shunter-16m');
const { values: flags } = parseArgs({
  options: {
    layouts: { type: 'string', default: '1x1,2x2,4@1000' },
    batches: { type: 'string', default: '1,8' },
    temperatures: { type: 'string', default: '0.8' },
    rounds: { type: 'string', default: '4' },
    'output-tokens': { type: 'string', default: '128' },
    'draft-max': { type: 'string', default: '16' },
    out: { type: 'string', default: path.join(root, 'bench/results/predictions') },
  },
});
const ways = ['none', 'same', 'edited', 'wrong'];
const folder = mkdtempSync(path.join(os.tmpdir(), 'switchyard-predictions-'));
atEnd(() => rmSync(folder, { recursive: true, force: true }));
const pieces = unseenPieces(model, 400).map((piece) => piece.slice(0, 400));

let asked = 0;
const cells = [];
for (const layout of flags.layouts.split(',')) {
  const { servers, run, stop } = await startLayout(layout, { model, draftMaxes: [flags['draft-max']], folder });
  /** @returns seconds, tokens and accepted tokens of each way */
  const load = async (streams, temperature, order) => {
    const texts = Array.from({ length: Math.max(8, 2 * streams) }, (_, i) => pieces[(asked + i) % pieces.length]);
    asked += texts.length;
    const file = path.join(folder, 'asked.json');
    const maxTokens = Number(flags['output-tokens']);
    writeFileSync(file, JSON.stringify({ texts, streams, temperature, maxTokens, seed: asked, ways: order }));
    return JSON.parse(await run([path.join(here, 'rewriting-client.mjs'), servers[0].url, file]));
  };
  try {
    await warmUp(async () => {
      const { none } = await load(8, 0, ['none']);
      return none.tokens / none.seconds;
    });
    for (const temperature of flags.temperatures.split(',').map(Number))
      for (const streams of flags.batches.split(',').map(Number)) {
        const rounds = [];
        for (let round = 0; round < Number(flags.rounds); round++)
          rounds.push(
            await load(
              streams,
              temperature,
              ways.map((_, i) => ways[(i + round) % ways.length]),
            ),
          );
        cells.push({ layout, temperature, streams, rounds });
        process.stderr.write(`${JSON.stringify(cells.at(-1))}\n`);
        report();
      }
  } finally {
    await stop();
  }
}
process.stdout.write(readFileSync(`${flags.out}.md`, 'utf8'));

function report() {
  const command = commandOf('bench/drafts/predictions.mjs', flags);
  const speed = ({ tokens, seconds }) => tokens / seconds;
  const ratios = (rounds, way) => rounds.map((round) => speed(round[way]) / speed(round.none));
  const ratio = (rounds, way) => {
    const all = ratios(rounds, way);
    return `${median(all).toFixed(2)}x (${Math.min(...all).toFixed(2)} to ${Math.max(...all).toFixed(2)})`;
  };
  const share = (rounds, way) => {
    const total = (field) => rounds.reduce((sum, round) => sum + round[way][field], 0);
    return `${((100 * total('accepted')) / total('tokens')).toFixed(0)} %`;
  };
  const lines = [
    '# What a prediction brings: the bundled model, chat',
    '',
    `Tokens a second over HTTP without a prediction, and how many times as fast the same requests are answered with one: the answer itself, the answer with every tenth word another one, the answer to something else. Medians of ${flags.rounds} rounds (the least and the most), in which all ways take turns at one server that also guesses from the text (up to ${flags['draft-max']} tokens a step). Behind the comma: how much of the answers came as predicted. Answers of ${flags['output-tokens']} tokens, compared: every one was what it is without.`,
    '',
    '| workers | temperature | streams | without | same | edited | wrong |',
    '| --- | --- | --- | --- | --- | --- | --- |',
    ...cells.map(({ layout, temperature, streams, rounds }) => {
      const shown = ways.slice(1).map((way) => `${ratio(rounds, way)}, ${share(rounds, way)}`);
      const without = median(rounds.map(({ none }) => speed(none))).toFixed(0);
      return `| ${nameOf(layout)} | ${temperature} | ${streams} | ${without} | ${shown.join(' | ')} |`;
    }),
    '',
    `\`${command}\`; ${os.cpus().length} x ${os.cpus()[0].model}, ${new Date().toISOString().slice(0, 10)}.`,
    '',
  ];
  writeFileSync(`${flags.out}.md`, lines.join('\n'));
  writeFileSync(`${flags.out}.json`, `${JSON.stringify({ command, cells }, null, 1)}\n`);
}
