/**
 * What choosing homes by routing brings: `node bench/homes/run.mjs [nodes]`. The bundled model on one worker a node, prompts from its held-out text. A trace of the
 * first half of each domain's text makes a plan; requests over the second half are then served by each way of choosing homes, in the same order. Counted, not timed:
 * `r` is the workers' own count of distinct remote nodes per token and layer. Answers are compared as well: they must be the same everywhere, or the exit status is 1.
 */
import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { atEnd } from '../leftovers.mjs';

const repository = fileURLToPath(new URL('../..', import.meta.url));
const modelDir = path.join(repository, 'models', 'shunter-16m');
const heldOut = path.join(modelDir, 'held-out');
const nodes = Number(process.argv[2] ?? 4);
const names = Array.from({ length: nodes }, (_, n) => `n${n}w0`);
const parts = 24;
const promptChars = 600;
const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-homes-'));
atEnd(() => rmSync(folder, { recursive: true, force: true }));
const planFile = path.join(folder, 'plan.json');

const adminToken = 'bench';
const adminFile = path.join(folder, 'admin');
writeFileSync(adminFile, adminToken, { mode: 0o600 });
const operator = { authorization: `Bearer ${adminToken}` };
const operated = ['--admin-token-file', adminFile, '--trace-dir', folder];

const texts = readdirSync(heldOut)
  .filter((file) => file.endsWith('.txt'))
  .map((file) => ({ domain: file.slice(0, -'.txt'.length), text: readFileSync(path.join(heldOut, file), 'utf8') }));

/** Prompts of parts [from, to) of every text, in an order that mixes the domains and is always the same. */
function prompts(from, to) {
  const all = [];
  for (let part = from; part < to; part++)
    for (const { domain, text } of texts) {
      const start = Math.floor((part * text.length) / parts);
      all.push({ domain, prompt: text.slice(start, start + promptChars) });
    }
  const rank = (i) => (i * 7919) % 104_729;
  return all
    .map((_, i) => i)
    .sort((a, b) => rank(a) - rank(b))
    .map((i) => all[i]);
}

async function startCluster(flags) {
  const control = `unix:${path.join(folder, 'c.sock')}`;
  const common = [
    '--model',
    modelDir,
    '--listen',
    '127.0.0.1:0',
    '--control',
    control,
    '--nodes',
    String(nodes),
    '--workers-per-node',
    '1',
    // What homes bring shows in every token's rows.
    '--draft-max',
    '0',
  ];
  const coordinator = spawn(
    process.execPath,
    [path.join(repository, 'coordinator/dist/main.js'), ...common, ...operated, '--supervised', '--log-level', 'error', ...flags],
    { stdio: ['pipe', 'pipe', 'inherit'] },
  );
  const { url } = await new Promise((resolve, reject) => {
    createInterface({ input: coordinator.stdout }).once('line', (line) => resolve(JSON.parse(line)));
    coordinator.once('exit', (status) => reject(new Error(`the coordinator ended with status ${status}`)));
  });
  let stopping = false;
  const workers = names.map((name, n) => {
    const data = `uds://${path.join(folder, `${name}.sock`)}`;
    const args = ['--coordinator', control, '--name', name, '--node', `n${n}`, '--data', data, '--threads', '1', '--supervised'];
    const worker = spawn(process.execPath, [path.join(repository, 'worker/dist/main.js'), ...args], { stdio: ['pipe', 'ignore', 'pipe'] });
    let said = '';
    worker.stderr.setEncoding('utf8').on('data', (text) => {
      said = (said + text).slice(-2000);
    });
    worker.once('close', (status) => {
      if (stopping) return;
      process.stderr.write(`${name} ended with status ${status}: ${said}\n`);
      process.exit(1);
    });
    return worker;
  });
  const stop = () => {
    stopping = true;
    return Promise.all(
      [coordinator, ...workers].map((child) => {
        const ended = new Promise((resolve) => child.once('exit', resolve));
        child.kill('SIGKILL');
        return ended;
      }),
    );
  };
  while (!(await fetch(`${url}/health/ready`)).ok) await sleep(50);
  return { url, stop };
}

async function post(url, route, body, headers = {}) {
  const response = await fetch(url + route, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: JSON.stringify(body),
  });
  const answer = await response.json();
  if (!response.ok) throw new Error(JSON.stringify(answer));
  return answer;
}

/** `atOnce` requests at a time; the texts of all answers. */
async function serve(url, requests, { declared, atOnce }) {
  const answers = [];
  for (let i = 0; i < requests.length; i += atOnce) {
    const batch = requests
      .slice(i, i + atOnce)
      .map(({ domain, prompt }) =>
        post(
          url,
          '/v1/completions',
          { prompt, max_tokens: 24, ignore_eos: true, temperature: 0 },
          declared ? { 'x-switchyard-domain': domain } : {},
        ),
      );
    answers.push(...(await Promise.all(batch)).map(({ choices }) => choices[0].text));
  }
  return answers;
}

async function makePlan() {
  const cluster = await startCluster([]);
  await post(cluster.url, '/v1/switchyard/trace', { on: true, file: 'homes' }, operator);
  await serve(cluster.url, prompts(0, parts / 2), { declared: true, atOnce: 8 });
  const { files } = await post(cluster.url, '/v1/switchyard/trace', { on: false }, operator);
  await cluster.stop();
  const topology = path.join(folder, 'topology.json');
  writeFileSync(
    topology,
    JSON.stringify({
      format: 'switchyard-topology',
      version: 1,
      nodes: names.map((name, n) => ({ name: `n${n}`, workers: [{ name, expertMemoryBytes: 1e9, relativeSpeed: 1 }] })),
      ...{ expertBytes: 150_000, dispatchRowBytes: 512, combineRowBytes: 640 },
      ...{ intraNode: { bandwidth: 5e10, latency: 5e-6 }, interNode: { bandwidth: 3e7, latency: 2.5e-4 }, links: null },
    }),
  );
  const args = ['place', '--trace', files[0], '--topology', topology, '--replicas', '25%', '--out', planFile];
  const place = spawn(process.execPath, [path.join(repository, 'cli/dist/main.js'), ...args], { stdio: ['ignore', 'ignore', 'inherit'] });
  const status = await new Promise((resolve) => place.once('exit', resolve));
  if (status !== 0) throw new Error(`place ended with status ${status}`);
}

const ways = [
  { name: 'contiguous, homes by load', flags: ['--home-choice', 'load'], declared: true, atOnce: 8 },
  { name: 'plan, homes by load', flags: ['--plan', planFile, '--home-choice', 'load'], declared: true, atOnce: 8 },
  { name: 'plan, homes by domain, 8 at once', flags: ['--plan', planFile], declared: true, atOnce: 8 },
  { name: 'plan, homes by domain, 1 at once', flags: ['--plan', planFile], declared: true, atOnce: 1 },
  {
    name: 'plan, no domains, moved after a first chunk of 16 tokens for 10%',
    flags: ['--plan', planFile, '--max-batch-rows', '16', '--home-move-percent', '10'],
    declared: false,
    atOnce: 8,
  },
];

await makePlan();
const results = [];
let reference = null;
for (const { name, flags, ...how } of ways) {
  const cluster = await startCluster(flags);
  const answers = await serve(cluster.url, prompts(parts / 2, parts), how);
  // Workers tell their counters once a second.
  await sleep(2200);
  const status = await (await fetch(`${cluster.url}/v1/switchyard/status`, { headers: operator })).json();
  await cluster.stop();
  const sum = (field) => status.workers.reduce((total, { stats }) => total + stats[field], 0);
  const tokens = status.workers.map(({ stats }) => stats.promptTokens + stats.generatedTokens);
  reference ??= answers;
  results.push({
    name,
    r: Number((sum('remoteNodesVisited') / sum('rowsDispatched')).toFixed(3)),
    rows: sum('rowsDispatched'),
    peakMean: Number((Math.max(...tokens) / (tokens.reduce((a, b) => a + b, 0) / nodes)).toFixed(2)),
    sameAnswers: answers.join('\0') === reference.join('\0'),
    choices: Object.fromEntries(Object.entries(status.homes.choices).filter(([, count]) => count > 0)),
  });
}
process.stdout.write(
  `${JSON.stringify({ format: 'switchyard-bench-homes', version: 1, nodes, model: 'shunter-16m', results }, null, 2)}\n`,
);
if (!results.every(({ sameAnswers }) => sameAnswers)) process.exitCode = 1;
