import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { bedRefusal } from '../../test/hosts/bed/bed.mjs';

const root = fileURLToPath(new URL('../..', import.meta.url));
const model = path.join(root, 'models/shunter-16m');

it.skipIf(bedRefusal() !== null)('a comparison over hosts in which a system could not be measured has failed, and says which', () => {
  const cache = mkdtempSync(path.join(os.tmpdir(), 'sw-bench-'));
  const args = ['--only', 'llama.cpp', '--llama', '/nowhere', '--model', model, '--gguf', path.join(model, 'model.safetensors')];
  const done = spawnSync(
    process.execPath,
    [path.join(root, 'bench/hosts/peers.mjs'), ...args, '--hosts', '2', '--rounds', '1', '--cache', cache],
    { encoding: 'utf8' },
  );
  rmSync(cache, { recursive: true });
  expect(done.stdout).toContain('llama.cpp could not be measured: a server ended');
  expect(done.status).toBe(1);
});
