import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
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
])('a start that fails on %s leaves nothing that ticks', async (option, file, flag) => {
  const control = `unix:${path.join(folder, `${option}.sock`)}`;
  const start = startCoordinator({ model: modelDir, listen: '127.0.0.1:0', control, logLevel: 'silent', [option]: file });
  await expect(start).rejects.toThrow(flag);
  expect(vi.getTimerCount()).toBe(0);
});
