// What the decision about guesses is worth, without a clock: texts that the bundled model says are generated once, and then played through the worker's own drafting,
// with steps that cost as much as F rows and one for each row. So a change of the policy is seen to a thousandth, which no measurement of time can show.
//   node bench/drafts/policy.mjs [--draft-maxes 8,16,32] [--texts 60] [--output-tokens 200] [--out bench/results/drafts-policy]
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { PredictedText } from '../../proto/dist/index.js';
import { Draft } from '../../worker/dist/engine/draft.js';
import { decideDrafts } from '../../worker/dist/engine/drafting.js';
import { HitRates } from '../../worker/dist/engine/hit-rates.js';
import { commandOf } from '../command.mjs';
import { atEnd } from '../leftovers.mjs';
import { startServer } from '../peers/servers.mjs';
import { unseenPieces } from './unseen-text.mjs';

const root = path.resolve(path.dirname(new URL(import.meta.url).pathname), '../..');
const model = path.join(root, 'models/shunter-16m');
const { values: flags } = parseArgs({
  options: {
    'draft-maxes': { type: 'string', default: '8,16,32' },
    texts: { type: 'string', default: '60' },
    'output-tokens': { type: 'string', default: '200' },
    out: { type: 'string', default: path.join(root, 'bench/results/drafts-policy') },
  },
});
const draftMaxes = flags['draft-maxes'].split(',').map(Number);
/** What rows share of a step's time, in rows. */
const fixedRows = [2, 8, 20, 48];
const temperatures = [0, 0.8];
/** What clients say that they expect: nothing, the answer, the answer with a passage in thirteen tokens another one, the answer to something else. */
const predictionsOf = {
  nothing: () => null,
  same: ({ answer }) => answer,
  edited: ({ answer }) => answer.flatMap((token, i) => (i % 13 === 12 ? [-2 - (i % 7), -10] : [token])),
  wrong: (_, other) => other.answer,
};

const folder = mkdtempSync(path.join(os.tmpdir(), 'switchyard-policy-'));
atEnd(() => rmSync(folder, { recursive: true, force: true }));
const extra = ['--nodes', 1, '--workers-per-node', 1, '--draft-max', 0];
const server = await startServer('switchyard', { model, port: 8970, threads: os.cpus().length, extra }, path.join(folder, 'log'));
let texts;
try {
  texts = new Map(await Promise.all(temperatures.map(async (temperature) => [temperature, await generate(temperature)])));
} finally {
  await server.stop();
}

/** @returns `prompt` and `answer` as ids, of each text */
async function generate(temperature) {
  const pieces = unseenPieces(model, Number(flags.texts)).map((piece) => piece.slice(0, 450));
  const wanted = { temperature, max_tokens: Number(flags['output-tokens']), ignore_eos: true, return_token_ids: true };
  return Promise.all(
    pieces.map(async (prompt, i) => {
      const response = await fetch(`${server.url}/v1/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ prompt, seed: i, ...wanted }),
      });
      if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
      const [choice] = (await response.json()).choices;
      return { prompt: choice.prompt_token_ids, answer: choice.token_ids };
    }),
  );
}

/** One text on its way, as worker/src/engine/sequence.ts has it. */
class Stream {
  constructor({ prompt, answer }, prediction, rates) {
    this.answer = answer;
    this.tokens = new Int32Array(prompt.length + answer.length + Math.max(...draftMaxes));
    this.tokens.set(prompt);
    this.length = prompt.length;
    this.said = 0;
    this.predicted = prediction === null ? null : new PredictedText(prediction);
    this.draft = new Draft(rates, this.predicted);
  }

  get left() {
    return this.answer.length - this.said;
  }

  /** What a step brings: its guesses up to the first that is wrong, and the token behind. */
  step() {
    for (let right = 0; this.left > 0; right++) {
      const token = this.answer[this.said++];
      const guessed = this.draft.guesses > 0 && this.tokens[this.length] === token;
      this.draft.judge(guessed);
      this.tokens[this.length++] = token;
      this.predicted?.push(token);
      if (!guessed || right === this.draft.proposed) return;
    }
  }
}

/** @returns how many times as many tokens a row's time brings as without guesses; always so many streams at a time, the last ones left out */
function play(said, { streams, fixed, draftMax, predict }) {
  const rates = HitRates.ofWorker();
  const waiting = said.map((text, i) => new Stream(text, predict(text, said[(i + 1) % said.length]), rates));
  const running = waiting.splice(0, streams);
  const cost = { rowMs: 1, ms: (rows) => fixed + rows };
  let rowTimes = 0;
  let tokens = 0;
  while (running.length === streams) {
    for (const stream of running) stream.draft.make(stream.tokens, stream.length, Math.min(draftMax, stream.left - 1));
    const drafts = running.map(({ draft }) => draft);
    decideDrafts(drafts, Number.POSITIVE_INFINITY, cost);
    rowTimes += cost.ms(drafts.reduce((rows, { proposed }) => rows + proposed, streams));
    for (const [i, stream] of running.entries()) {
      const before = stream.said;
      stream.step();
      tokens += stream.said - before;
      if (stream.left === 0) running[i] = waiting.shift();
    }
    if (running.includes(undefined)) break;
  }
  return (tokens * (cost.ms(streams) / streams)) / rowTimes;
}

const lines = [
  '# What the decision about guesses is worth',
  '',
  `${flags.texts} texts of ${flags['output-tokens']} tokens that the bundled model says, played through the worker's own drafting (\`worker/src/engine/draft.ts\`, \`drafting.ts\`, \`hit-rates.ts\`). A step costs as much as so many rows, and one for each row; the figures are tokens per cost against no guesses, for \`--draft-max\` ${draftMaxes.join(', ')}. No clock is read: they are the same wherever this runs.`,
  '',
  `| temperature | prediction | streams | ${fixedRows.map((rows) => `a step costs ${rows} rows`).join(' | ')} |`,
  `| --- | --- | --- | ${fixedRows.map(() => '---').join(' | ')} |`,
];
for (const temperature of temperatures)
  for (const [name, predict] of Object.entries(predictionsOf))
    for (const streams of [1, 8, 32]) {
      const cells = fixedRows.map((fixed) =>
        draftMaxes.map((draftMax) => play(texts.get(temperature), { streams, fixed, draftMax, predict }).toFixed(2)).join(', '),
      );
      lines.push(`| ${temperature} | ${name} | ${streams} | ${cells.join(' | ')} |`);
    }
lines.push('', `\`${commandOf('bench/drafts/policy.mjs', flags)}\``, '');
writeFileSync(`${flags.out}.md`, lines.join('\n'));
process.stdout.write(lines.join('\n'));
