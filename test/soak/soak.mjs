// A cluster under mixed load and misfortune, in rounds. What must hold, whatever happens: a request that is answered gets the answer of one worker alone, bit for
// bit; one that breaks off has said a part of it; one that fails says so by a code that the misfortune excuses; and when it is quiet, nothing is left behind.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { contiguousPlan } from '../../proto/dist/index.js';
import { ask } from './asking.mjs';
import { disturbances } from './disturbances.mjs';
import { drawsFrom } from './draws.mjs';
import { questionsFrom } from './questions.mjs';
import { footprintOf, settled, startUp } from './server.mjs';

const nodes = 2;
const workersPerNode = 2;
/** As little as serves the longest question: streams preempt one another. */
const tightFlags = ['--kv-bytes', '6M', '--max-batch-rows', '96', '--home-fill', '2'];
const filesMore = 16;
const residentRatio = 1.5;
const residentMore = 96 << 20;

/**
 * @param rounds how many, or a function that says before each whether there is one more
 * @param upFlags of `switchyard up`, for both the one worker and the cluster
 * @param onRound is told of each: {round, disturbance, whole, hungUp, failed: code -> count, seconds}
 * @returns what all rounds had, and `wrong`: a line for everything that should not have been
 */
export async function soak({
  seed,
  rounds,
  questions = 36,
  asked = 48,
  clients = 8,
  kinds = Object.keys(disturbances),
  upFlags = [],
  signal = null,
  onRound = () => {},
}) {
  const more = typeof rounds === 'function' ? rounds : (round) => round < rounds;
  const pool = questionsFrom(seed, questions);
  const answers = await answersOfOne(pool, upFlags);
  const folder = mkdtempSync(path.join(os.tmpdir(), 'switchyard-soak-'));
  const total = { rounds: 0, whole: 0, hungUp: 0, failed: {}, wrong: [] };
  let server = null;
  try {
    server = await startUp(['--plan', planIn(folder), ...tightFlags, ...upFlags]);
    const footprints = [];
    for (let round = 0; more(round) && signal?.aborted !== true && total.wrong.length === 0; round++) {
      await settled(server);
      const draws = drawsFrom(seed * 7919 + round);
      const told = await playRound(server, { pool, answers, asked, clients, draws, disturbance: kinds[round % kinds.length] });
      await settled(server);
      const footprint = footprintOf(server.pid);
      if (footprint !== null) footprints.push(footprint);
      total.rounds++;
      total.whole += told.whole;
      total.hungUp += told.hungUp;
      for (const [code, count] of Object.entries(told.failed)) total.failed[code] = (total.failed[code] ?? 0) + count;
      total.wrong.push(...told.wrong.map((line) => `round ${round}, ${told.disturbance}: ${line}`));
      onRound({ round, ...told });
    }
    total.wrong.push(...growth(footprints));
    total.wrong.push(...(await server.stop()));
    server = null;
    return total;
  } finally {
    rmSync(folder, { recursive: true });
    await server?.stop();
  }
}

/** What one worker alone says, one question after the other, from scratch and without guesses. */
async function answersOfOne(pool, upFlags) {
  const server = await startUp([...upFlags, '--nodes', '1', '--workers-per-node', '1', '--draft-max', '0', '--no-prefix-cache']);
  try {
    const answers = [];
    for (const question of pool) {
      const { state, answer, message } = await ask(server.url, question, { stream: false });
      if (state !== 'whole') throw new Error(`one worker alone failed: ${message}; asked ${JSON.stringify(question)}`);
      answers.push(answer);
    }
    return answers;
  } finally {
    await server.stop();
  }
}

/** Every expert on both nodes, so that one worker may be lost. */
function planIn(folder) {
  const workers = Array.from({ length: nodes * workersPerNode }, (_, w) => ({ name: `w${w}`, node: Math.floor(w / workersPerNode) }));
  const once = contiguousPlan({ type: 'qwen3_moe', moeLayers: [0, 1, 2, 3, 4, 5], experts: 32 }, workers);
  const replicas = once.replicas.map((layer) => layer.map(([w]) => [w % workersPerNode, workersPerNode + (w % workersPerNode)]));
  const file = path.join(folder, 'plan.json');
  writeFileSync(file, JSON.stringify({ ...once, replicas }));
  return file;
}

/** Clients ask until the round's questions are asked; in the midst of it the disturbance happens. */
async function playRound(server, { pool, answers, asked, clients, draws, disturbance }) {
  const { mayFail, happen } = disturbances[disturbance];
  const told = { disturbance, whole: 0, hungUp: 0, failed: {}, wrong: [] };
  const startMs = performance.now();
  const plan = Array.from({ length: asked }, () => ({
    i: draws.integer(0, pool.length - 1),
    how: { stream: draws.chance(0.6), hangUpAfter: draws.chance(0.2) ? draws.integer(0, 20) : null },
  }));
  const disturbAt = draws.integer(Math.floor(asked / 6), Math.floor(asked / 2));
  let next = 0;
  let happened = null;
  await Promise.all(
    Array.from({ length: clients }, async () => {
      while (next < asked) {
        const { i, how } = plan[next];
        if (next++ === disturbAt) happened = happen(server, draws).catch(({ message }) => told.wrong.push(message));
        judge(told, await ask(server.url, pool[i], how), answers[i], pool[i], mayFail);
      }
    }),
  );
  await happened;
  return { ...told, seconds: (performance.now() - startMs) / 1000 };
}

function judge(told, outcome, expected, question, mayFail) {
  const asked = JSON.stringify(question).slice(0, 300);
  if (outcome.state === 'whole') {
    told.whole++;
    if (!isDeepStrictEqual(outcome.answer, expected))
      told.wrong.push(
        `another answer than one worker alone gives: ${JSON.stringify(outcome.answer)} instead of ${JSON.stringify(expected)}; asked ${asked}`,
      );
    return;
  }
  const { state, said } = outcome;
  if (said.some((text, c) => !expected.choices[c].text.startsWith(text)))
    told.wrong.push(`what was said is no part of the answer: ${JSON.stringify(said)} of ${JSON.stringify(expected)}; asked ${asked}`);
  if (state === 'hung up') {
    told.hungUp++;
    return;
  }
  if (state === 'broken') {
    told.wrong.push(`no answer, and no error: ${outcome.message}; asked ${asked}`);
    return;
  }
  told.failed[outcome.code] = (told.failed[outcome.code] ?? 0) + 1;
  if (!mayFail.includes(outcome.code)) told.wrong.push(`failed by ${outcome.code}: ${outcome.message}; asked ${asked}`);
}

/** The coordinator after the last round against what it was after a quarter of them: nothing may pile up. */
function growth(footprints) {
  if (footprints.length < 4) return [];
  const early = footprints[Math.floor(footprints.length / 4)];
  const late = footprints.at(-1);
  return [
    ...(late.files > early.files + filesMore ? [`open files grew from ${early.files} to ${late.files}`] : []),
    ...(late.residentBytes > residentRatio * early.residentBytes + residentMore
      ? [`resident memory grew from ${early.residentBytes} to ${late.residentBytes} bytes`]
      : []),
  ];
}
