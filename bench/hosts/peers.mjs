// Switchyard beside llama.cpp's RPC and vLLM's tensor parallelism, over the same hosts of the same bed, with the same weights and the same client, in turn.
//   node bench/hosts/peers.mjs --llama BIN_DIR [--vllm VENV_DIR] [--model DIR --gguf FILE] [--hosts 4] [--rate 1000] [--delay 250] [--batches 1,8] [--rounds 2]
//                              [--cores-per-host N] [--only switchyard,llama.cpp,vllm] [--plan FILE] [--text FILE] [--cache DIR]
//                              [--out bench/results/hosts-peers]
// A system with +ngram (switchyard+ngram, llama.cpp+ngram, vllm+ngram) guesses next tokens by prompt lookup.
// Every system does its best on one core a host: llama.cpp with an RPC server on each host and its API server on the first, vLLM with one rank a host over gloo.
// With --cores-per-host each host has the machine's next N CPUs to itself, for as many threads; what computes no layers (APIs, the client, the network) has what is left.
// Rounds alternate the systems, every second one in reverse; the table takes each figure's best round. Needs root, iproute2 and a C compiler.
import { once } from 'node:events';
import { existsSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { bedRefusal, startBed } from '../../test/hosts/bed/bed.mjs';
import { startCluster } from '../../test/hosts/bed/cluster.mjs';
import { divideCores, stayOn } from '../../test/hosts/bed/cores.mjs';
import { draftFlags, isOurs, systemOf } from '../peers/drafts.mjs';
import { convertToGguf } from '../peers/gguf.mjs';
import { writeRandomModel } from '../peers/random-model.mjs';
import { inTurn } from '../turns.mjs';
import { warmUp } from '../warm-up.mjs';
import { bundledModel, onHosts } from './workloads.mjs';

const root = path.resolve(path.dirname(new URL(import.meta.url).pathname), '../..');
const cli = path.join(root, 'cli/dist/main.js');
const { values: flags } = parseArgs({
  options: {
    llama: { type: 'string' },
    vllm: { type: 'string' },
    model: { type: 'string' },
    gguf: { type: 'string' },
    hosts: { type: 'string', default: '4' },
    rate: { type: 'string', default: '1000' },
    delay: { type: 'string', default: '250' },
    batches: { type: 'string', default: '1,8' },
    rounds: { type: 'string', default: '2' },
    'cores-per-host': { type: 'string' },
    only: { type: 'string' },
    plan: { type: 'string' },
    text: { type: 'string' },
    transport: { type: 'string', default: 'tcp' },
    'output-tokens': { type: 'string', default: '64' },
    'prefill-tokens': { type: 'string', default: '512' },
    'start-timeout': { type: 'string', default: '300' },
    cache: { type: 'string', default: path.join(os.tmpdir(), 'switchyard-hosts-cache') },
    out: { type: 'string' },
  },
});
const refusal = bedRefusal();
if (refusal !== null) {
  process.stderr.write(`no test bed: ${refusal}\n`);
  process.exit(2);
}
const hosts = Number(flags.hosts);
const batches = flags.batches.split(',').map(Number);
const threads = Number(flags['cores-per-host'] ?? 1);
const cores = flags['cores-per-host'] === undefined ? null : divideCores(hosts, threads);
if (cores !== null) stayOn(cores.rest);
const wanted = flags.only?.split(',') ?? ['switchyard', ...(flags.llama ? ['llama.cpp'] : []), ...(flags.vllm ? ['vllm'] : [])];
mkdirSync(flags.cache, { recursive: true });
const model = path.resolve(flags.model ?? path.join(flags.cache, 'middle'));
if (!existsSync(path.join(model, 'tokenizer_config.json'))) writeRandomModel(model, bundledModel);
const gguf = path.resolve(flags.gguf ?? `${model}.gguf`);
if (wanted.some((name) => systemOf(name) === 'llama.cpp') && !existsSync(gguf)) convertToGguf(model, gguf);
const config = JSON.parse(readFileSync(path.join(model, 'config.json'), 'utf8'));
const port = 8000;
/** Sequences that a server must be able to run at once, and the context of each. */
const sequences = Math.max(...batches);
const context = 1024;

/** What computes layers on a host, on the CPUs that it has to itself, if any. */
const spawnOn = (bed, host, command, args, options) =>
  cores === null
    ? bed.spawn(host, command, args, options)
    : bed.spawn(host, 'taskset', ['--cpu-list', cores.hosts[host], command, ...args], options);

/** Each starts its processes on the bed's hosts and says where it serves, what tells that it does, and how it ends. */
const systems = {
  async switchyard(bed, _log, drafts) {
    const plan = flags.plan ? JSON.parse(readFileSync(flags.plan, 'utf8')) : onHosts(model, hosts);
    const cluster = await startCluster(bed, {
      model,
      plan,
      transport: flags.transport,
      threads,
      cpus: cores?.hosts ?? null,
      coordinatorFlags: drafts,
    });
    return { ready: '/health/ready', children: [], stop: cluster.stop };
  },
  async 'llama.cpp'(bed, log, drafts) {
    const servers = bed.hosts.map(({ address }, host) =>
      spawnOn(bed, host, path.join(flags.llama, 'ggml-rpc-server'), ['-H', address, '-p', 50052, '-t', threads], {
        stdio: ['ignore', log, log],
      }),
    );
    const rpc = bed.hosts.map(({ address }) => `${address}:50052`).join(',');
    const api = bed.spawn(
      0,
      path.join(flags.llama, 'llama-server'),
      [
        ...['-m', gguf, '--rpc', rpc, '-ngl', 99, '--host', bed.hosts[0].address, '--port', port],
        ...['-t', threads, '-tb', threads, '-fit', 'off'],
        ...['-np', sequences, '-c', sequences * context, '--no-webui', '--cache-ram', 0, '--threads-http', hosts * sequences + 16],
        ...drafts,
      ],
      { stdio: ['ignore', log, log] },
    );
    return { ready: '/health', children: [api, ...servers], stop: () => endAll([api, ...servers]) };
  },
  async vllm(bed, log, drafts) {
    const [{ address }] = bed.hosts;
    const ranks = bed.hosts.map((own, host) =>
      spawnOn(
        bed,
        host,
        path.join(flags.vllm, 'bin/vllm'),
        [
          ...['serve', model, '--served-model-name', 'model', '--host', address, '--port', port, '--dtype', 'bfloat16'],
          ...['--max-model-len', context, '--max-num-seqs', sequences, '--tensor-parallel-size', hosts],
          ...drafts,
          ...[
            '--distributed-executor-backend',
            'mp',
            '--nnodes',
            hosts,
            '--node-rank',
            host,
            '--master-addr',
            address,
            '--master-port',
            29500,
          ],
          ...(host === 0 ? [] : ['--headless']),
        ],
        {
          stdio: ['ignore', log, log],
          env: {
            ...process.env,
            VLLM_CPU_KVCACHE_SPACE: '1',
            VLLM_CPU_OMP_THREADS_BIND: cores?.hosts[host] ?? String(host % os.cpus().length),
            VLLM_CPU_NUM_OF_RESERVED_CPU: '0',
            VLLM_NO_USAGE_STATS: '1',
            VLLM_HOST_IP: own.address,
            GLOO_SOCKET_IFNAME: 'lan0',
            HF_HUB_OFFLINE: '1',
          },
        },
      ),
    );
    return { ready: '/v1/models', children: ranks, stop: () => endAll(ranks) };
  },
};

async function endAll(children) {
  const running = children.filter((child) => child.exitCode === null && child.signalCode === null);
  for (const child of running) child.kill('SIGTERM');
  const late = setTimeout(() => {
    for (const child of running) child.kill('SIGKILL');
  }, 10_000);
  await Promise.all(running.map((child) => once(child, 'exit')));
  clearTimeout(late);
}

/** Asks until it serves, from the host on which it does: nothing else reaches it. */
async function untilServing(bed, { ready, children }) {
  const url = `http://${bed.hosts[0].address}:${port}${ready}`;
  const probe = `const end = Date.now() + 1000 * ${Number(flags['start-timeout'])};
    (async () => { while (Date.now() < end) { const a = await fetch('${url}').catch(() => null); if (a?.ok) process.exit(0); await new Promise((r) => setTimeout(r, 250)); } process.exit(1); })();`;
  const ended = Promise.race(children.map((child) => once(child, 'exit')));
  await Promise.race([
    bed.run(0, process.execPath, ['-e', probe]),
    ended.then(([status, signal]) => Promise.reject(new Error(`a server ended (${signal ?? status}) before it served`))),
  ]);
}

let seed = 0;

/** The client every system is measured with, on the first host. No server is sent a prompt twice: caches of prefixes must not help. All get the same ones in a round. */
async function measure(bed, args) {
  const url = `http://${bed.hosts[0].address}:${port}`;
  const out = await bed.run(0, process.execPath, [
    cli,
    'bench',
    'serve',
    '--url',
    url,
    '--json',
    '--timeout',
    120,
    ...(flags.text ? ['--text', flags.text] : ['--vocab', config.vocab_size]),
    ...['--seed', ++seed],
    ...args,
  ]);
  return JSON.parse(out).levels;
}

/** All bytes that have left hosts so far. */
const wireBytesOf = ({ wireBytes }) => wireBytes.flat().reduce((a, b) => a + b, 0);

async function warm(bed) {
  // As many clients as make every host the home of a full batch, where a server has homes; where not, they stand in line.
  const clients = hosts * sequences;
  await warmUp(
    async () => {
      const lengths = ['--prompt-tokens', 16, '--output-tokens', 32, '--requests', clients];
      const [level] = await measure(bed, ['--concurrency', clients, ...lengths]);
      return level.outputTokensPerSecond;
    },
    { roundsMax: 6 },
  );
}

async function measureServer(bed, round) {
  // However long it took to warm up.
  seed = 1000 * (round + 1);
  const decode = await measure(bed, [
    '--concurrency',
    flags.batches,
    '--prompt-tokens',
    16,
    '--output-tokens',
    flags['output-tokens'],
    '--requests',
    Math.max(8, sequences),
  ]);
  const promptTokens = Number(flags['prefill-tokens']);
  const prefill = await measure(bed, [
    '--concurrency',
    flags.batches,
    '--requests',
    Math.max(8, sequences),
    '--prompt-tokens',
    promptTokens,
    '--output-tokens',
    1,
  ]);
  return {
    decode: Object.fromEntries(decode.map((level) => [level.concurrency, level.outputTokensPerSecond])),
    timePerOutputTokenMs: Object.fromEntries(decode.map((level) => [level.concurrency, level.timePerOutputTokenMs?.p50 ?? null])),
    prefill: Object.fromEntries(prefill.map((level) => [level.concurrency, level.promptTokens / level.seconds])),
  };
}

const results = Object.fromEntries(wanted.map((name) => [name, []]));
const failures = {};
for (let round = 0; round < Number(flags.rounds); round++)
  for (const name of inTurn(wanted, round).filter((one) => failures[one] === undefined)) {
    const bed = await startBed({ hosts, rateMbit: Number(flags.rate), delayMicros: Number(flags.delay) });
    const logFile = path.join(flags.cache, `${name}.log`);
    let server = null;
    try {
      server = await systems[systemOf(name)](bed, openSync(logFile, 'w'), draftFlags(name));
      await untilServing(bed, server);
      await warm(bed);
      const before = wireBytesOf(await bed.counters());
      const result = await measureServer(bed, round);
      results[name].push({ ...result, wireBytes: wireBytesOf(await bed.counters()) - before });
      process.stderr.write(`round ${round + 1} ${name}: ${JSON.stringify(result)}\n`);
    } catch (error) {
      // The table has what could be measured all the same.
      process.exitCode = 1;
      failures[name] =
        `${error.message.split('\n')[0]}; the end of its log: ${existsSync(logFile) ? readFileSync(logFile, 'utf8').slice(-1500) : ''}`;
      process.stderr.write(`${name} failed: ${failures[name]}\n`);
    } finally {
      await server?.stop();
      await bed.stop();
    }
  }

const cells = ['prefill', 'decode'].flatMap((phase) => batches.map((batch) => ({ phase, batch })));
const best = (name, { phase, batch }) => Math.max(...results[name].map((result) => result[phase][batch]));
const number = (value) => (Number.isFinite(value) ? (value >= 100 ? Math.round(value).toLocaleString('en-US') : value.toFixed(1)) : '');
const [ours, peers] = [true, false].map((own) => wanted.filter((name) => isOurs(name) === own));
const rows = cells.map((cell) => {
  const row = Object.fromEntries(wanted.map((name) => [name, best(name, cell)]));
  const fastest = (names) => Math.max(...names.map((name) => row[name]).filter(Number.isFinite));
  return { ...cell, row, ratio: fastest(ours) / fastest(peers) };
});
const command = [
  'node',
  'bench/hosts/peers.mjs',
  // Without folders and files, which are of one machine.
  ...process.argv
    .slice(2)
    .filter((_, i, all) => ![all[i], all[i - 1]].some((a) => /^--(llama|vllm|cache|out|model|gguf|plan|text)$/.test(a))),
].join(' ');
const text = [
  `# ${hosts} hosts at ${flags.rate} Mb/s, ${Number(flags.delay) / 1000} ms one way, ${cores === null ? `all on ${os.cpus().length} cores` : `${threads} cores each`}`,
  '',
  `${path.basename(model)}: ${config.num_hidden_layers} layers, ${config.num_experts} experts, top-${config.num_experts_per_tok}, hidden ${config.hidden_size}; bf16; ${flags['prefill-tokens']}-token prompts, ${flags['output-tokens']} tokens decoded.`,
  '',
  `| tokens/s | ${wanted.join(' | ')} | Switchyard / better peer |`,
  `| --- | ${wanted.map(() => '---').join(' | ')} | --- |`,
  ...rows.map(
    ({ phase, batch, row, ratio }) =>
      `| ${phase}, batch ${batch} | ${wanted.map((name) => number(row[name])).join(' | ')} | ${Number.isFinite(ratio) ? `${ratio.toFixed(2)}x` : ''} |`,
  ),
  '',
  ...Object.entries(failures).map(([name, why]) => `${name} could not be measured: ${why.split('\n')[0]}\n`),
  `\`${command}\`: best of ${flags.rounds} alternating rounds; ${os.cpus()[0].model}, ${new Date().toISOString().slice(0, 10)}.`,
  '',
].join('\n');
process.stdout.write(text);
if (flags.out) {
  writeFileSync(`${flags.out}.md`, text);
  writeFileSync(
    `${flags.out}.json`,
    `${JSON.stringify({ command, hosts, rateMbit: Number(flags.rate), delayMicros: Number(flags.delay), config, results, failures, rows }, null, 1)}\n`,
  );
}
