// What a worker's event loop gives to one token of one stream once its logits are there: the choice and its log-probabilities, through the worker's own readout.
// Another build of the worker beside this one, turn by turn, to compare with:
//   node bench/engine/sampling.mjs [--vocab 151936] [--tokens 200] [--before /path/to/other/worker/dist]
import path from 'node:path';
import { parseArgs } from 'node:util';
import { median } from '../median.mjs';

const root = path.resolve(path.dirname(new URL(import.meta.url).pathname), '../..');
const { values: flags } = parseArgs({
  options: { vocab: { type: 'string', default: '151936' }, tokens: { type: 'string', default: '200' }, before: { type: 'string' } },
});
const vocab = Number(flags.vocab);
const tokens = Number(flags.tokens);
/** More than caches hold, as a step's logits are. */
const rows = 32;
/** Streams of different wishes meet in one process: what the compiler has learnt from one is in force for the others. */
const cases = {
  greedy: {},
  'greedy, log-probability': { wantLogprob: true },
  'greedy, 20 alternatives': { wantLogprob: true, logprobs: 20 },
  'T 1': { temperature: 1 },
  'T 1, log-probability': { temperature: 1, wantLogprob: true },
  'T 0.7, top_p 0.8': { temperature: 0.7, topP: 0.8 },
  'T 0.7, top_p 0.8, top_k 20': { temperature: 0.7, topP: 0.8, topK: 20 },
  'T 0.7, top_k 20, repetition 1.05': { temperature: 0.7, topK: 20, repetitionPenalty: 1.05 },
  'T 0.7, top_k 1000': { temperature: 0.7, topK: 1000 },
  'T 0.8, min_p 0.05': { temperature: 0.8, minP: 0.05 },
};

const logits = likeLogits();
const builds = flags.before === undefined ? ['after'] : ['before', 'after'];
const readers = await Promise.all(builds.map((build) => readersOf(build === 'before' ? flags.before : path.join(root, 'worker/dist'))));
// One round to compile everything with everything.
for (const read of readers) for (const name of Object.keys(cases)) time(read(cases[name]));
console.log(`| ms per token, vocabulary ${vocab} | ${builds.join(' | ')} |\n| --- |${' --- |'.repeat(builds.length)}`);
for (const name of Object.keys(cases)) {
  const reads = readers.map((read) => read(cases[name]));
  const rounds = Array.from({ length: 5 }, () => reads.map(time));
  const ms = reads.map((_, i) => median(rounds.map((round) => round[i])).toFixed(2));
  console.log(`| ${name} | ${ms.join(' | ')} |`);
}

function time(read) {
  const samples = [];
  for (let i = 0; i < tokens / 5; i++) {
    const startedMs = performance.now();
    read();
    samples.push(performance.now() - startedMs);
  }
  return median(samples);
}

/** Makes a function that reads the next row of logits as one stream's next token. */
async function readersOf(dist) {
  const [{ Readout }, { Sequence }, { StepOutput }, { HitRates }] = await Promise.all(
    ['readout', 'sequence', 'step-output', 'hit-rates'].map((file) => import(path.join(dist, 'engine', `${file}.js`))),
  );
  const output = new StepOutput();
  const counters = { generatedTokens: 0, draftTokens: 0, draftTokensAccepted: 0 };
  const readout = new Readout({ logits: { f32: logits }, shape: { vocab } }, 1_000_000, output, counters);
  return ({ wantLogprob = false, logprobs = 0, ...wishes }) => {
    const sampling = { temperature: 0, topP: 1, topK: 0, minP: 0, repetitionPenalty: 1, presencePenalty: 0, frequencyPenalty: 0 };
    const request = {
      request: 1,
      prompt: Int32Array.of(1, 2, 3),
      prediction: [],
      maxTokens: 1_000_000,
      minTokens: 0,
      stopTokens: [],
      wantLogprob,
      logprobs,
      promptLogprobs: false,
      sampling: { ...sampling, seed: 7n, biasToken: [], biasValue: [], ...wishes },
    };
    const sequence = new Sequence(request, 'scope', 0, null, HitRates.ofWorker());
    let row = 0;
    return () => {
      sequence.computed = sequence.length;
      row = (row + 1) % rows;
      readout.read(sequence, row, row + 1, 0);
      if (sequence.length % 64 === 0) output.take();
    };
  };
}

/** Rows as a model has them: most tokens in a bell far below the few that fit. (rows, vocab) */
function likeLogits() {
  const random = mulberry32(1);
  const values = new Float32Array(rows * vocab);
  for (let i = 0; i < values.length; i++) values[i] = 2.5 * Math.sqrt(-2 * Math.log(random() + 1e-12)) * Math.cos(2 * Math.PI * random());
  for (let row = 0; row < rows; row++) for (let i = 0; i < 40; i++) values[row * vocab + Math.floor(random() * vocab)] += 6 + 10 * random();
  return values;
}

function mulberry32(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
