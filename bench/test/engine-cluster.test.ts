import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { startCluster } from '../engine/cluster.mjs';

const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-bench-'));
afterAll(() => rmSync(folder, { recursive: true }));
const model = { type: 'qwen3_moe', vocab: 4096, moeLayers: [0], experts: 4 };
const layout = { workers: 2, nodes: 1, transport: 'uds' };

it('a cluster whose workers end before they attach is an error that has their last words, not a wait for ever', {
  timeout: 15_000,
}, async () => {
  const program = path.join(folder, 'ends.mjs');
  writeFileSync(program, "process.stderr.write('no such kernel'); process.exitCode = 3;");
  await expect(startCluster('/nowhere', model, layout, program)).rejects.toThrow(/w\d ended with status 3: no such kernel/);
});

it('a cluster whose workers cannot read the model is an error that says why', { timeout: 15_000 }, async () => {
  await expect(startCluster('/nowhere', model, layout)).rejects.toThrow(/\/nowhere/);
});
