import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { writeSwitchyardTrace } from '@switchyard/placement';
import { afterAll, expect, it } from 'vitest';
import { planOf } from '../hosts/plans.mjs';
import { syntheticTrace } from '../placement/synthetic.mjs';

const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-bench-'));
afterAll(() => rmSync(folder, { recursive: true }));

function workload(seed: number) {
  const planningTrace = path.join(folder, `${seed}.trace`);
  const trace = syntheticTrace({ layers: 1, experts: 8, topK: 2, tokens: 256, topics: 2, seed });
  const { chunks, sequences } = writeSwitchyardTrace(trace, new Date(0).toISOString());
  writeFileSync(planningTrace, Buffer.concat([...chunks]));
  writeFileSync(`${planningTrace}.sequences.jsonl`, sequences);
  return { name: 'text', type: 'x', hidden: 64, intermediate: 64, planningTrace };
}

it('a plan that is kept is not taken for that of another trace', async () => {
  const [first, second] = [workload(1), workload(2)];
  const caches = ['one', 'other'].map((name) => path.join(folder, name));
  for (const cache of caches) mkdirSync(cache);
  const kept = planOf(first, 2, 'optimised', caches[0]);
  expect(planOf(first, 2, 'optimised', caches[0])).toEqual(kept);
  const own = planOf(second, 2, 'optimised', caches[1]);
  expect(own.replicas).not.toEqual(kept.replicas);
  expect(planOf(second, 2, 'optimised', caches[0]).replicas).toEqual(own.replicas);
});
