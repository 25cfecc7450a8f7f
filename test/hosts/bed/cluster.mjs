// One Switchyard cluster over the hosts of a bed: the coordinator and the load client on the first host, workers on all of them, links between them by TCP or gRPC.
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { processorSecondsOf } from './processor-time.mjs';

const root = path.resolve(path.dirname(new URL(import.meta.url).pathname), '../../..');
const cli = path.join(root, 'cli/dist/main.js');
const client = path.join(root, 'test/hosts/bed/client.mjs');
/** Of the first cluster of a bed, and how far apart those of the next ones are. */
const firstPort = 8000;
const portsApart = 10;
const startTimeoutMs = 120_000;
/** Worker statistics come about once a second: after so long the ones of before have been overtaken. */
const freshMs = 1_300;

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * @param plan a placement plan whose worker w runs on host `plan.workers[w].node`
 * @param replay trace whose routing is replayed, or null
 * @param threads of each worker
 * @param cpus of each host's workers, as `taskset` reads them; null: they run where this process may. The coordinator and the client do that in any case.
 *   Hosts with CPUs of their own stand for machines with memory of their own, which workers under one kernel cannot know: all are homes alike
 * @param number of the cluster, where several share the hosts
 */
export async function startCluster(
  bed,
  { model, plan, replay = null, transport = 'tcp', threads = 1, cpus = null, coordinatorFlags = /** @type {string[]} */ ([]), number = 0 },
) {
  const apiPort = firstPort + portsApart * number;
  const controlPort = apiPort + 1;
  const folder = mkdtempSync(path.join(os.tmpdir(), 'switchyard-hosts-'));
  const planFile = path.join(folder, 'plan.json');
  writeFileSync(planFile, JSON.stringify(plan));
  const tokenFile = path.join(folder, 'token');
  writeFileSync(tokenFile, 'bed\n', { mode: 0o600 });
  const traces = path.join(folder, 'traces');
  mkdirSync(traces);
  const adminSocket = path.join(folder, 'admin.sock');
  const log = path.join(folder, 'log');
  const output = openSync(log, 'a');
  const stdio = ['pipe', output, output];
  const { address } = bed.hosts[0];
  const children = [];
  const start = (host, args, streams = stdio, own = null) => {
    const [command, ...rest] = [...(own === null ? [] : ['taskset', '--cpu-list', own]), process.execPath, ...args];
    const child = bed.spawn(host, command, rest, { stdio: streams });
    child.stdin.on('error', () => {});
    children.push(child);
    return child;
  };
  start(0, [
    ...[cli, 'coordinator', '--model', model, '--listen', `${address}:${apiPort}`, '--control', `${address}:${controlPort}`],
    ...['--plan', planFile, '--token-file', tokenFile, '--admin-socket', adminSocket, '--trace-dir', traces, '--log-level', 'warn'],
    ...['--kv-bytes', 256 * 2 ** 20, '--supervised', ...(replay === null ? [] : ['--replay-routing', replay])],
    ...[...(cpus === null ? [] : ['--home-fill', 1]), ...coordinatorFlags],
  ]);
  for (const { name, node } of plan.workers) {
    const args = [
      ...[cli, 'worker', '--coordinator', `${address}:${controlPort}`, '--name', name, '--node', `n${node}`],
      ...['--data', `${transport}://${bed.hosts[node].address}:0`, '--threads', threads, '--token-file', tokenFile, '--supervised'],
    ];
    start(node, args, stdio, cpus === null ? null : cpus[node]);
  }
  const stop = async () => {
    for (const child of children) child.stdin.end();
    await Promise.all(children.map((child) => (child.exitCode === null && child.signalCode === null ? once(child, 'exit') : null)));
    rmSync(folder, { recursive: true });
  };
  try {
    await untilReady(adminSocket, children, log);
  } catch (error) {
    for (const child of children) child.kill('SIGKILL');
    await stop();
    throw error;
  }
  const status = () => admin(adminSocket, 'GET', '/v1/switchyard/status');
  const name = (await status()).model;
  const load = start(0, [client, `http://${address}:${apiPort}`, name], ['pipe', 'pipe', 'inherit']);
  const asked = new Map();
  createInterface({ input: load.stdout })
    .on('line', (line) => {
      const { id, ...answer } = JSON.parse(line);
      asked.get(id).resolve(answer);
      asked.delete(id);
    })
    .on('close', () => {
      for (const { reject } of asked.values()) reject(new Error('the load client ended'));
    });
  let jobs = 0;
  const ask = (job) =>
    new Promise((resolve, reject) => {
      const id = jobs++;
      asked.set(id, { resolve, reject });
      load.stdin.write(`${JSON.stringify({ id, ...job })}\n`);
    });
  return {
    plan,
    url: `http://${address}:${apiPort}`,
    /** Sends the requests all at once; resolves with what each saw, in order. */
    batch: async (requests) => (await ask({ batch: requests })).completions,
    tokenize: async (text) => (await ask({ tokenize: text })).tokens,
    /** Processor seconds so far: of each worker, of what else serves requests, and of the network. */
    processorSeconds() {
      const outside = [children[0], load].map(({ pid }) => processorSecondsOf(pid));
      return {
        workers: plan.workers.map((_, w) => processorSecondsOf(children[1 + w].pid)),
        outside: outside.reduce((a, b) => a + b, 0),
        network: bed.processorSeconds(),
      };
    },
    /** The cluster's status with statistics no older than this call. */
    async counters() {
      await sleep(freshMs);
      return status();
    },
    status,
    /** Records the routing of what `use` asks for into `file`, and its sequences beside it. */
    async record(file, use) {
      await admin(adminSocket, 'POST', '/v1/switchyard/trace', { on: true, file: 'bench.trace' });
      await use();
      const { files } = await admin(adminSocket, 'POST', '/v1/switchyard/trace', { on: false });
      for (const suffix of ['', '.sequences.jsonl']) writeFileSync(file + suffix, readFileSync(files[0] + suffix));
    },
    stop,
  };
}

async function untilReady(socket, children, log) {
  const deadline = Date.now() + startTimeoutMs;
  for (;;) {
    const ended = children.find((child) => child.exitCode !== null || child.signalCode !== null);
    if (ended !== undefined || Date.now() > deadline)
      throw new Error(
        `the cluster did not start (${ended ? ended.spawnargs.slice(4, 11).join(' ') : 'late'}): ${readFileSync(log, 'utf8').slice(-2000)}`,
      );
    const status = await admin(socket, 'GET', '/v1/switchyard/status').catch(() => null);
    const failed = status?.workers.find(({ state }) => state === 'failed');
    if (failed !== undefined) throw new Error(`worker ${failed.name} failed: ${failed.failure}`);
    if (status?.ready && status.workers.every(({ state }) => state === 'ready')) return;
    await sleep(100);
  }
}

function admin(socketPath, method, pathname, body = null) {
  return new Promise((resolve, reject) => {
    const request = http.request(
      { socketPath, method, path: pathname, headers: { 'content-type': 'application/json' } },
      async (response) => {
        let text = '';
        for await (const chunk of response) text += chunk;
        if (response.statusCode === 200) resolve(JSON.parse(text));
        else reject(new Error(`${method} ${pathname}: ${response.statusCode} ${text.slice(0, 300)}`));
      },
    );
    request.on('error', reject);
    request.end(body === null ? undefined : JSON.stringify(body));
  });
}
