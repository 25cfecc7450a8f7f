// The program as users start it, and what can be told of it from outside: its status, its processes, what it leaves behind.
import { spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { processLives } from '../../cli/dist/cluster/run-folder.js';
import { findSession } from '../../cli/dist/cluster/session.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
export const modelDir = path.join(root, 'models/shunter-16m');

/** Starts `switchyard up` with these flags; resolves when it is ready. It ends with this process at the latest, and hears no Ctrl-C that this one hears. */
export async function startUp(flags) {
  const child = spawn(
    process.execPath,
    [path.join(root, 'cli/dist/main.js'), 'up', '--json', '--supervised', '--port', '0', '--model', modelDir, ...flags],
    {
      stdio: ['pipe', 'pipe', 'pipe'],
      detached: true,
    },
  );
  let log = '';
  child.stderr.on('data', (part) => {
    log = (log + part).slice(-20_000);
  });
  const ended = new Promise((resolve) => child.once('close', resolve));
  const report = await new Promise((resolve, reject) => {
    createInterface({ input: child.stdout }).once('line', (line) => resolve(JSON.parse(line)));
    void ended.then((status) => reject(new Error(`up ended with status ${status}: ${log}`)));
  });
  const { url } = report;
  const runFolder = readdirSync(os.tmpdir()).find((name) => name.startsWith(`switchyard-run-${child.pid}-`));
  return {
    url,
    pid: child.pid,
    workers: report.workers.map(({ name }) => name),
    log: () => log,
    /** The coordinator's own account; its admin token is in the session that `up` keeps for its user. */
    async status() {
      const { adminToken } = findSession(url);
      const response = await fetch(`${url}/v1/switchyard/status`, { headers: { authorization: `Bearer ${adminToken}` } });
      return response.json();
    },
    /** @returns what it left behind, in words; nothing is what it should be */
    async stop() {
      // Where it has ended by itself there is nobody to ask: its status says so.
      const workers = await this.status().then(
        (status) => status.workers.map(({ pid }) => pid),
        () => [],
      );
      child.kill('SIGINT');
      const status = await ended;
      return [
        ...(status === 0 ? [] : [`up ended with status ${status}: ${log}`]),
        ...workers.filter(processLives).map((pid) => `worker process ${pid} lives on`),
        ...(existsSync(path.join(os.tmpdir(), runFolder)) ? [`${runFolder} is still there`] : []),
      ];
    },
  };
}

/** Waits until all workers serve and nothing runs; what it waits for is said where it does not come about within `seconds`. */
export async function settled(server, seconds = 60) {
  const untilMs = performance.now() + 1000 * seconds;
  for (;;) {
    const status = await server.status();
    const unsettled = unsettledBy(status);
    if (unsettled.length === 0) return status;
    if (performance.now() > untilMs) throw new Error(`not settled after ${seconds} s: ${unsettled.join(', ')}\n${server.log()}`);
    await sleep(50);
  }
}

function unsettledBy({ ready, requests, workers }) {
  return [
    ...(ready ? [] : ['not ready']),
    ...(requests.running + requests.waiting === 0 ? [] : [`${requests.running} requests run and ${requests.waiting} wait`]),
    ...workers.filter(({ state }) => state !== 'ready').map(({ name, state }) => `${name} is ${state}`),
    ...workers.filter(({ load }) => load !== 0).map(({ name, load }) => `${name} has ${load} sequences`),
    ...workers.filter(({ stats }) => stats !== null && stats.running + stats.waiting > 0).map(({ name }) => `${name} says that it works`),
  ];
}

/** Open files and resident memory of a process; null where the system does not tell. */
export function footprintOf(pid) {
  if (!existsSync('/proc/self/fd')) return null;
  const resident = /^VmRSS:\s*(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
  return { files: readdirSync(`/proc/${pid}/fd`).length, residentBytes: 1024 * Number(resident[1]) };
}
