import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { afterAll, afterEach, beforeEach, expect, it, vi } from 'vitest';
import { startCoordinator } from '../src/index.ts';
import { modelDir } from './model-dir.ts';

const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-fs-'));
afterAll(() => rmSync(folder, { recursive: true }));

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
});
afterEach(() => {
  vi.useRealTimers();
});

const empty = path.join(folder, 'empty');
writeFileSync(empty, '');
const missing = path.join(folder, 'missing');

it.each([
  ['apiKeyFile', missing, '--api-key-file'],
  ['adminTokenFile', missing, '--admin-token-file'],
  ['tokenFile', empty, '--token-file'],
  ['tlsCert', missing, '--tls-cert'],
  ['tlsCa', empty, '--tls-ca needs'],
])('a start that fails on %s leaves nothing that ticks', async (option, file, flag) => {
  const control = `unix:${path.join(folder, `${option}.sock`)}`;
  const start = startCoordinator({ model: modelDir, listen: '127.0.0.1:0', control, logLevel: 'silent', [option]: file });
  await expect(start).rejects.toThrow(flag);
  expect(vi.getTimerCount()).toBe(0);
});

it('says that something else listens for workers already, and nothing besides', async () => {
  const other = net.createServer().listen(0, '127.0.0.1');
  await once(other, 'listening');
  const control = `127.0.0.1:${(other.address() as net.AddressInfo).port}`;
  const said = vi.spyOn(console, 'error').mockImplementation(() => {});
  const start = startCoordinator({ model: modelDir, listen: '127.0.0.1:0', control, logLevel: 'silent' });
  await expect(start).rejects.toThrow(`cannot listen on ${control}: something else listens there already`);
  expect(said).not.toHaveBeenCalled();
  said.mockRestore();
  other.close();
});
