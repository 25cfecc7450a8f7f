// Switchyard beside llama.cpp and vLLM: same weights, same cores, same client, in turn within one run.
//   node bench/peers/compare.mjs --model DIR --gguf FILE --llama BIN_DIR [--vllm VENV_DIR] [--format bf16|int8] [--rounds 2] [--text FILE]
//                               [--only switchyard,switchyard+ngram,llama.cpp,vllm] [--out bench/results/peers-NAME]
// A system with +ngram guesses next tokens by prompt lookup. Prompts are random ids, or pieces of the text.
// Rounds alternate the systems, every second one in reverse, so that a machine that slows down slows all of them; the table takes each figure's best round. What the memory gives is measured
// right before and after each level of our own, and a step is compared with the better of the two: a machine that others use changes within minutes.
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { measureReadBandwidth } from '../../cli/dist/doctor/read-bandwidth.js';
import { commandOf } from '../command.mjs';
import { inTurn } from '../turns.mjs';
import { warmUp } from '../warm-up.mjs';
import { isOurs } from './drafts.mjs';
import { decodeBound, prefillBound } from './floor.mjs';
import { startServer } from './servers.mjs';

const root = path.resolve(path.dirname(new URL(import.meta.url).pathname), '../..');
const cli = path.join(root, 'cli/dist/main.js');

const { values: flags } = parseArgs({
  options: {
    model: { type: 'string' },
    gguf: { type: 'string' },
    llama: { type: 'string' },
    vllm: { type: 'string' },
    format: { type: 'string', default: 'bf16' },
    rounds: { type: 'string', default: '2' },
    threads: { type: 'string', default: String(os.cpus().length) },
    batches: { type: 'string', default: '1,8,32' },
    'output-tokens': { type: 'string', default: '128' },
    'prefill-tokens': { type: 'string', default: '512' },
    port: { type: 'string', default: '8870' },
    only: { type: 'string' },
    text: { type: 'string' },
    up: { type: 'string', default: '' },
    out: { type: 'string' },
  },
});
if (!flags.model || !flags.gguf || !flags.llama) {
  process.stderr.write('compare: --model, --gguf and --llama are needed\n');
  process.exit(2);
}
const threads = Number(flags.threads);
const batches = flags.batches.split(',').map(Number);
const config = JSON.parse(readFileSync(path.join(flags.model, 'config.json'), 'utf8'));
const wanted = flags.only?.split(',') ?? ['switchyard', 'llama.cpp', ...(flags.vllm && flags.format === 'bf16' ? ['vllm'] : [])];
const source = flags.text ? ['--text', flags.text] : ['--vocab', config.vocab_size];
const logs = mkdtempSync(path.join(os.tmpdir(), 'compare-'));

let seed = 0;

/** The client every system is measured with. No server is sent a prompt twice: caches of prefixes must not help. All get the same ones in a round. */
function measure(url, args) {
  const own = ['--url', url, '--json', '--timeout', '60', '--seed', String(++seed)];
  const done = spawnSync(process.execPath, [cli, 'bench', 'serve', ...own, ...args.map(String)], {
    encoding: 'utf8',
    maxBuffer: 1 << 26,
  });
  if (done.status !== 0 && !done.stdout.startsWith('{'))
    throw new Error(`bench serve against ${url} exited with ${done.status}: ${done.stderr.slice(-2000)}`);
  return JSON.parse(done.stdout).levels.map((level) => {
    // A server that leaves requests unanswered has no figure; what it did is said, and the comparison has failed.
    if (level.errors === 0) return level;
    process.exitCode = 1;
    process.stderr.write(
      `${url}: ${level.errors} of ${level.requests} failed at ${level.concurrency} clients: ${JSON.stringify(level.errorMessages)}\n`,
    );
    return { ...level, outputTokensPerSecond: null, timePerOutputTokenMs: null };
  });
}

/** @param bandwidth true: each decode level is between two measurements of what the memory gives */
async function measureServer(url, bandwidth, round) {
  const most = Math.max(...batches);
  await warmUp(() => {
    const lengths = ['--prompt-tokens', 16, '--output-tokens', 64, ...source];
    return measure(url, ['--concurrency', most, '--requests', most, ...lengths])[0].outputTokensPerSecond;
  });
  // However long it took to warm up.
  seed = 1000 * (round + 1);
  const levels = [];
  for (const batch of batches) {
    const before = bandwidth ? await measureReadBandwidth(threads) : 0;
    const lengths = ['--prompt-tokens', 16, '--output-tokens', flags['output-tokens'], ...source];
    const [level] = measure(url, ['--concurrency', batch, ...lengths]);
    const after = bandwidth ? await measureReadBandwidth(threads) : 0;
    levels.push({ ...level, readBandwidth: Math.max(before, after) });
  }
  const [prefill] = measure(url, [
    ...['--concurrency', 1, '--requests', 8, '--prompt-tokens', flags['prefill-tokens'], '--output-tokens', 1],
    ...source,
  ]);
  const byBatch = (pick) => Object.fromEntries(levels.map((level) => [level.concurrency, pick(level)]));
  return {
    prefill: prefill.errors > 0 ? null : Number(flags['prefill-tokens']) / (prefill.requestMs.p50 / 1000),
    decode: byBatch((level) => level.outputTokensPerSecond),
    timePerOutputTokenMs: byBatch((level) => level.timePerOutputTokenMs?.p50 ?? null),
    ...(bandwidth ? { readBandwidth: byBatch((level) => level.readBandwidth) } : {}),
  };
}

/** What our kernels found here: it says more about the processor than its name. */
function instructionSetOf() {
  const doctor = JSON.parse(execFileSync(process.execPath, [cli, 'doctor', '--json'], { encoding: 'utf8', maxBuffer: 1 << 26 }));
  return /avx512|avx2|scalar/.exec(doctor.checks.find(({ name }) => name === 'native kernels')?.found ?? '')?.[0] ?? 'unknown';
}

const results = Object.fromEntries(wanted.map((name) => [name, []]));
for (let round = 0; round < Number(flags.rounds); round++) {
  for (const name of inTurn(wanted, round)) {
    const options = {
      ...{ model: path.resolve(flags.model), gguf: path.resolve(flags.gguf), llama: flags.llama, vllm: flags.vllm },
      ...{ threads, format: flags.format, port: Number(flags.port) + wanted.indexOf(name), extra: flags.up ? flags.up.split(' ') : [] },
    };
    const server = await startServer(name, options, path.join(logs, `${name}-${round}.log`));
    try {
      const result = await measureServer(server.url, isOurs(name), round);
      results[name].push(result);
      process.stderr.write(`round ${round + 1} ${name}: prefill ${Math.round(result.prefill)}, decode ${JSON.stringify(result.decode)}\n`);
    } finally {
      await server.stop();
    }
  }
}

/** The step of all rounds that came nearest to what the memory gave at that moment: {stepMs, bandwidth, bound in tokens/s, ofBound}. */
function nearestToBound(batch) {
  // Of the one that guesses nothing: a step of guesses has more tokens than the bound thinks.
  const steps = (results.switchyard ?? [])
    .filter((result) => result.timePerOutputTokenMs[batch] !== null)
    .map((result) => {
      const stepMs = result.timePerOutputTokenMs[batch];
      const bandwidth = result.readBandwidth[batch];
      const bound = decodeBound(config, batch, bandwidth, flags.format);
      // The bound is that of a decode step, which the throughput is not: it also pays for the prompts of its requests.
      return { stepMs, bandwidth, bound, ofBound: (batch * 1000) / stepMs / bound };
    });
  return steps.sort((a, b) => b.ofBound - a.ofBound)[0] ?? null;
}

const best = (name, pick) => Math.max(...results[name].map(pick)) || null;
const cells = [
  { title: `prefill ${flags['prefill-tokens']}`, pick: (r) => r.prefill },
  ...batches.map((b) => ({ title: `decode, batch ${b}`, batch: b, pick: (r) => r.decode[b] })),
];
const table = cells.map((cell) => {
  const row = Object.fromEntries(wanted.map((name) => [name, best(name, cell.pick)]));
  const [ours, peers] = [true, false].map((own) =>
    wanted.filter((name) => isOurs(name) === own && row[name] !== null).map((name) => row[name]),
  );
  return {
    ...cell,
    row,
    ratio: ours.length && peers.length ? Math.max(...ours) / Math.max(...peers) : null,
    step: cell.batch ? nearestToBound(cell.batch) : null,
  };
});
const number = (v) => (v === null || v === undefined ? '' : v >= 100 ? Math.round(v).toLocaleString('en-US') : v.toFixed(1));
const stepColumns = (step) =>
  step === null
    ? ['', '', '', '']
    : [(step.bandwidth / 1e9).toFixed(1), number(step.bound), number(step.stepMs), `${(100 * step.ofBound).toFixed(0)} %`];
const lines = [
  `| tokens/s | ${wanted.join(' | ')} | Switchyard / better peer | memory, GB/s | bandwidth bound | a step, ms | of the bound |`,
  `| --- | ${wanted.map(() => '---').join(' | ')} | --- | --- | --- | --- | --- |`,
  ...table.map(
    ({ title, row, ratio, step }) =>
      `| ${[title, ...wanted.map((name) => number(row[name])), ratio ? `${ratio.toFixed(2)}x` : '', ...stepColumns(step)].join(' | ')} |`,
  ),
];
process.stdout.write(`${lines.join('\n')}\n`);
if (flags.out) {
  const machine = {
    cpu: os.cpus()[0].model,
    cores: os.cpus().length,
    instructionSet: instructionSetOf(),
    memoryBytes: os.totalmem(),
    node: process.version,
  };
  const run = commandOf(
    'bench/peers/compare.mjs',
    { ...flags, up: flags.up || undefined },
    { llama: 'LLAMA_BIN', ...(flags.vllm ? { vllm: 'VLLM_VENV' } : {}) },
  );
  writeFileSync(
    `${flags.out}.json`,
    `${JSON.stringify({ createdAt: new Date().toISOString(), machine, run, format: flags.format, config, prefillBoundPerTeraOps: prefillBound(config, 1e12), results, table }, null, 2)}\n`,
  );
  writeFileSync(
    `${flags.out}.md`,
    `# ${path.basename(flags.model)}, ${flags.format}, ${threads} threads, over HTTP\n\n${lines.join('\n')}\n\nThroughput: best of ${flags.rounds} alternating rounds, whole requests, prompts of 16 tokens included. A step is the median time per output token of the round that came nearest to its bound; the bound is the time to read its weights once, if streams choose experts evenly and each by itself, at what the memory gave to ${threads} threads right before or after that measurement, whichever was more. ${machine.cpu}, ${machine.cores} cores, ${machine.instructionSet} at most.\n\n\`${run}\`\n`,
  );
}
