import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { becomes } from '../becomes.ts';

const repository = fileURLToPath(new URL('../..', import.meta.url));
export const modelDir = path.join(repository, 'models', 'shunter-16m');
export const model = 'shunter-16m';
export const adminToken = 'the-operator';

export interface Cluster {
  url: string;
  healthUrl: string | null;
  traceDir: string;
  coordinator: ChildProcess;
  workers: Map<string, ChildProcess>;
  startWorker(name: string): void;
  /** Kills it and starts another in its place, on another port. */
  restartCoordinator(): Promise<void>;
  /** What the coordinator wrote to stderr. */
  log(): string;
  stop(): Promise<void>;
}

/** A coordinator and its workers as processes of their own, as an operator would start them. Resolves when all of them are ready. */
export async function startCluster(
  options: { nodes?: number; workersPerNode?: number; flags?: string[]; withWorkers?: boolean; dir?: string } = {},
): Promise<Cluster> {
  const { nodes = 1, workersPerNode = 1, flags = [], withWorkers = true, dir = modelDir } = options;
  const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-api-'));
  const control = `unix:${path.join(folder, 'c.sock')}`;
  const adminFile = path.join(folder, 'admin');
  writeFileSync(adminFile, adminToken, { mode: 0o600 });
  let log = '';
  const args = [
    ...[path.join(repository, 'coordinator', 'dist', 'main.js'), '--model', dir, '--listen', '127.0.0.1:0', '--control', control],
    ...['--nodes', String(nodes), '--workers-per-node', String(workersPerNode), '--kv-bytes', '67108864'],
    ...['--admin-token-file', adminFile, '--trace-dir', folder, '--supervised'],
    ...flags,
  ];
  const startCoordinator = async () => {
    const coordinator = spawn(process.execPath, args, { stdio: ['pipe', 'pipe', 'pipe'] });
    coordinator.stderr.on('data', (chunk) => {
      log += chunk;
    });
    const { url, health } = await new Promise<{ url: string; health: string | null }>((resolve, reject) => {
      createInterface({ input: coordinator.stdout }).once('line', (line) => resolve(JSON.parse(line)));
      coordinator.once('exit', (status) => reject(new Error(`the coordinator ended with status ${status}: ${log}`)));
    });
    return { coordinator, url, healthUrl: health };
  };
  const workers = new Map<string, ChildProcess>();
  const startWorker = (name: string) => {
    const [, node] = /^(n\d+)w\d+$/.exec(name)!;
    const data = `uds://${path.join(folder, `${name}.sock`)}`;
    const args = ['--coordinator', control, '--name', name, '--node', node, '--data', data, '--grace-ms', '200', '--supervised'];
    const worker = spawn(process.execPath, [path.join(repository, 'worker', 'dist', 'main.js'), ...args], {
      stdio: ['pipe', 'ignore', 'ignore'],
    });
    workers.set(name, worker);
  };
  const cluster: Cluster = {
    ...(await startCoordinator()),
    traceDir: folder,
    workers,
    startWorker,
    log: () => log,
    async restartCoordinator() {
      await end(cluster.coordinator);
      Object.assign(cluster, await startCoordinator());
    },
    async stop() {
      const all = [cluster.coordinator, ...workers.values()];
      await Promise.all(all.map(end));
      rmSync(folder, { recursive: true, force: true });
    },
  };
  if (!withWorkers) return cluster;
  for (let node = 0; node < nodes; node++) for (let w = 0; w < workersPerNode; w++) startWorker(`n${node}w${w}`);
  await untilReady(cluster, true);
  // Which is so as soon as every expert is somewhere.
  await until(async () => (await status(cluster)).workers.every(({ state }) => state === 'ready'));
  return cluster;
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = new Promise((done) => child.once('exit', done));
  child.kill('SIGKILL');
  await exited;
}

export async function untilReady({ url }: Cluster, ready: boolean): Promise<void> {
  await until(async () => (await fetch(`${url}/health/ready`)).ok === ready);
}

/** Every answer to a question is from another process. */
export async function until(condition: () => Promise<boolean> | boolean, msMax = 30_000): Promise<void> {
  await becomes(condition, { everyMs: 25, msMax });
}

export async function post(cluster: Cluster, route: string, body: unknown, headers: Record<string, string> = {}) {
  const response = await fetch(cluster.url + route, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: typeof body === 'string' || body instanceof Uint8Array ? (body as string) : JSON.stringify(body),
  });
  const text = await response.text();
  return { status: response.status, headers: response.headers, text, json: () => JSON.parse(text) };
}

interface Status {
  ready: boolean;
  requests: { running: number; waiting: number };
  fingerprint: string;
  numericClass: string;
  plan: { prediction: { remoteNodes: number; homeShare: number } | null };
  workers: {
    name: string;
    node: string;
    state: string;
    load: number;
    statsAgeMs: number | null;
    stats: {
      running: number;
      waiting: number;
      generatedTokens: number;
      links: { peer: string; framesSent: number }[];
    } | null;
  }[];
}

export async function status(cluster: Cluster): Promise<Status> {
  const response = await fetch(`${cluster.url}/v1/switchyard/status`, { headers: { authorization: `Bearer ${adminToken}` } });
  if (!response.ok) throw new Error(`status ${response.status}`);
  return (await response.json()) as Status;
}

/** The `data` of every event of a stream. */
export async function events(cluster: Cluster, route: string, body: Record<string, unknown>): Promise<string[]> {
  const { text } = await post(cluster, route, { ...body, stream: true });
  return text
    .split('\n\n')
    .filter((event) => event.startsWith('data: '))
    .map((event) => event.slice('data: '.length));
}
