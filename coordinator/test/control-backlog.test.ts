import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, expect, it, vi } from 'vitest';
import { modelDirOfContext } from './model-dir.ts';
import { startWithOneWorker } from './one-worker.ts';

vi.mock('../../proto/src/limits.ts', async (original) => {
  const { limits } = await original<typeof import('../../proto/src/limits.ts')>();
  return { limits: { ...limits, controlPendingBytesMax: 128 * 1024, controlMessageBytesMax: 512 * 1024 } };
});

const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-cb-'));
afterAll(() => rmSync(folder, { recursive: true }));

it('long prompts go to a worker as fast as its stream takes them, however many come at once', async () => {
  const model = modelDirOfContext(100_000, folder);
  const { coordinator, worker } = await startWithOneWorker(folder, { model, graceMs: 0 }, { kvBlocks: 10_000 });
  // 128 sequences of 16 KB each.
  const prompt = Array.from({ length: 8 }, (_, p) => Array.from({ length: 8192 }, (_, i) => 200 + ((p + i) % 2000)));
  const asked = fetch(`${coordinator.url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ prompt, n: 16, max_tokens: 1 }),
  });
  const request: number[] = [];
  const outcome = await Promise.race([
    asked,
    worker.submits(128).then((submits) => {
      for (const submit of submits) request.push(submit.request);
    }),
  ]);
  expect(outcome instanceof Response ? await outcome.text() : null).toBeNull();
  const all = <T>(value: T) => request.map(() => value);
  worker.tokens({ request, token: all(69), finish: all(2), cachedTokens: all(0) });
  expect((await asked).status).toBe(200);
  expect(coordinator.status()).toMatchObject({ workers: [{ losses: 0 }], requests: { running: 0, waiting: 0 } });
  await coordinator.close();
});
