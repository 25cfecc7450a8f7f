import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import http from 'node:http';
import type net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { becomes } from '../../test/becomes.ts';
import { freePort } from '../free-port.mjs';
import { startServer, systems } from '../peers/servers.mjs';

const bench = fileURLToPath(new URL('..', import.meta.url));
let folder: string;
beforeEach(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), 'sw-bench-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

/** A system that answers as soon as it runs, with its process id. */
const stub = ({ port }: { port: number }) => ({
  command: process.execPath,
  args: ['-e', `require('node:http').createServer((_, r) => r.end(String(process.pid))).listen(${port}, '127.0.0.1')`],
  env: {},
  ready: '/',
});

function lives(pid: number): boolean {
  try {
    process.kill(pid, 0);
    // One that nobody has waited for yet is dead too.
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

describe('a system that is compared', () => {
  it('is not taken for whoever listens on its port already', async () => {
    const other = http.createServer((_, response) => response.end()).listen(0, '127.0.0.1');
    await once(other, 'listening');
    const { port } = other.address() as net.AddressInfo;
    Object.assign(systems, { stub });
    await expect(startServer('stub', { port }, path.join(folder, 'log'))).rejects.toThrow(`port ${port} cannot be measured on`);
    other.close();
  });

  it.each(['SIGINT', 'SIGTERM'] as const)('ends with the comparison when that ends by %s', async (signal) => {
    const port = await freePort();
    const program = `import { startServer, systems } from '${bench}/peers/servers.mjs';
      systems.stub = ${stub.toString()};
      const { url } = await startServer('stub', { port: ${port} }, '${folder}/log');
      process.stdout.write(await (await fetch(url)).text());
      setInterval(() => {}, 1000);`;
    const comparison = spawn(process.execPath, ['--input-type=module', '-e', program], { stdio: ['ignore', 'pipe', 'inherit'] });
    const [said] = await once(comparison.stdout, 'data');
    const server = Number(said);
    expect(lives(server)).toBe(true);
    comparison.kill(signal);
    const [status] = await once(comparison, 'exit');
    expect(status).toBe(signal === 'SIGINT' ? 130 : 143);
    await becomes(() => !lives(server));
  });
});

const hasCompiler = spawnSync('cc', ['--version']).status === 0;
describe.skipIf(!hasCompiler)('the measurement of links', () => {
  const run = (args: string[]) =>
    spawn(process.execPath, [path.join(bench, 'exchange/run.mjs'), '--out', path.join(folder, 'out'), ...args], {
      stdio: ['ignore', 'ignore', 'pipe'],
      env: { ...process.env, TMPDIR: folder },
    });

  it('leaves nothing behind when it is told to end', async () => {
    const measurement = run(['--only', 'uds', '--rounds', '1000', '--seconds', '0.01']);
    const ring = path.join(existsSync('/dev/shm') ? '/dev/shm' : folder, `switchyard-exchange-${measurement.pid}`);
    await once(measurement.stderr, 'data'); // A round is done.
    expect(existsSync(ring)).toBe(true);
    measurement.kill('SIGTERM');
    await once(measurement, 'exit');
    expect(existsSync(ring)).toBe(false);
    expect(readdirSync(folder)).toEqual([]);
  });

  it('of a link that it does not know is wrong usage', async () => {
    const measurement = run(['--only', 'udp']);
    expect((await once(measurement, 'exit'))[0]).toBe(2);
  });
});
