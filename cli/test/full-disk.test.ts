import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { startLocalCluster } from '../src/cluster/local-cluster.ts';
import { createRunFolder } from '../src/cluster/run-folder.ts';
import { WorkerFleet } from '../src/cluster/worker-fleet.ts';

/** Files for which there is no room. */
let refused = '';
vi.mock('node:fs', async (original) => {
  const fs = await original<typeof import('node:fs')>();
  const writeFileSync: typeof fs.writeFileSync = (file, data, options) => {
    if (refused !== '' && String(file).endsWith(refused)) throw new Error('ENOSPC: no space left on device, write');
    fs.writeFileSync(file, data, options);
  };
  return { ...fs, default: { ...fs, writeFileSync }, writeFileSync };
});

let parent: string;
beforeEach(() => {
  parent = mkdtempSync(path.join(os.tmpdir(), 'sw-fd-'));
  vi.stubEnv('TMPDIR', parent);
});
afterEach(() => {
  refused = '';
  vi.unstubAllEnvs();
  vi.restoreAllMocks();
  rmSync(parent, { recursive: true });
});

it('a full disk is named by the folder that is on it, in which nothing is left', () => {
  refused = '/admin-token';
  expect(() => createRunFolder(parent)).toThrow(`the temporary folder ${parent} (TMPDIR): ENOSPC: no space left on device, write`);
  expect(readdirSync(parent)).toEqual([]);
});

it('a disk that is full a little later starts no worker, and nothing is left there either', async () => {
  refused = '/session.json';
  const started = vi.spyOn(WorkerFleet.prototype, 'start').mockImplementation(() => {});
  const starting = startLocalCluster({
    shape: { workers: [{ name: 'n0w0', node: 'n0' }], plan: null },
    shares: [{ threads: 1, cpus: null }],
    backends: ['cpu'],
    transport: 'uds',
    traces: { dir: parent },
    graceMs: 0,
    coordinator: { model: path.resolve(import.meta.dirname, '../../models/shunter-16m'), listen: '127.0.0.1:0', logLevel: 'silent' },
    onDeath: () => {},
    onLine: () => {},
    onLog: () => {},
  });
  await expect(starting).rejects.toThrow('ENOSPC');
  expect(started).not.toHaveBeenCalled();
  expect(readdirSync(parent)).toEqual([]);
});
