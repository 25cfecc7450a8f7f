import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { removeLeftovers } from '../src/cluster/leftovers.ts';
import { createRunFolder } from '../src/cluster/run-folder.ts';

/** No process has it. */
const gone = 999_999_999;

let parent: string;
beforeEach(() => {
  parent = mkdtempSync(path.join(os.tmpdir(), 'sw-'));
});
afterEach(() => rmSync(parent, { recursive: true }));

async function listen(name: string): Promise<net.Server> {
  const server = net.createServer().listen(path.join(parent, name));
  await once(server, 'listening');
  return server;
}

/** A socket that nobody listens on any more, as a kill leaves it. */
async function leave(...names: string[]): Promise<void> {
  for (const name of names) {
    const server = await listen('made');
    renameSync(path.join(parent, 'made'), path.join(parent, name));
    server.close();
    await once(server, 'close');
  }
}

it('of killed processes are removed: run folders with all that is in them, and sockets of workers', async () => {
  mkdirSync(path.join(parent, `switchyard-run-${gone}-a1B2c3`));
  await leave(`switchyard-run-${gone}-a1B2c3/control.sock`, `switchyard-w0-${gone}.shm`, `switchyard-n0-w.1-0a1b2c3d-${gone}.sock`);
  await removeLeftovers(parent);
  expect(readdirSync(parent)).toEqual([]);
});

it('are not what a living process has, what somebody listens on, and what is not ours by name and kind', async () => {
  const run = createRunFolder(parent);
  mkdirSync(path.join(parent, `switchyard-run-${gone}-listen`));
  const servers = [await listen(`switchyard-run-${gone}-listen/control.sock`), await listen(`switchyard-w0-${gone}.sock`)];
  await leave(
    `switchyard-w0-${process.pid}.shm`,
    `switchyard-${gone}.sock`,
    `switchyard-w0-0${gone}.sock`,
    `switchyard-w0-${gone}.sock.old`,
    `other-w0-${gone}.sock`,
    'elsewhere',
  );
  for (const name of ['switchyard-run-notes', `switchyard-run-${gone}`, `switchyard-run-${gone}-a-b`, `switchyard-w1-${gone}.shm`])
    mkdirSync(path.join(parent, name));
  for (const name of [`switchyard-run-${gone}-file`, `switchyard-w2-${gone}.sock`]) writeFileSync(path.join(parent, name), '');
  symlinkSync('elsewhere', path.join(parent, `switchyard-w3-${gone}.sock`));
  symlinkSync('switchyard-run-notes', path.join(parent, `switchyard-run-${gone}-link`));
  const before = readdirSync(parent);
  await removeLeftovers(parent);
  expect(readdirSync(parent)).toEqual(before);
  run.remove();
  for (const server of servers) server.close();
});

it('a temporary folder that is not there holds nothing, and is named when one is needed', async () => {
  const missing = path.join(parent, 'missing');
  await removeLeftovers(missing);
  expect(() => createRunFolder(missing)).toThrow(`the temporary folder ${missing} (TMPDIR): ENOENT`);
});
