import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

test('every instruction set, thread count and GPU, real or emulated, gives the bits of the scalar oracle', () => {
  const program = fileURLToPath(new URL('../build/conformance', import.meta.url));
  const run = spawnSync(program, { encoding: 'utf8' });
  expect(run.error).toBeUndefined();
  // It says whether there was a GPU; every failure would be a line more.
  expect(run.stderr).toMatch(/^with(out a GPU:)? .*\n$/);
  expect(run.status, run.stdout).toBe(0);
  // A suite that compared nothing proves nothing.
  const suites = run.stdout.trim().split('\n');
  expect(suites.length).toBeGreaterThan(10);
  for (const suite of suites) expect(suite).toMatch(/^\w+ +[1-9]\d* compared, 0 failed$/);
});
