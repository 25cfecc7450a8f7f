import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { gzipSync } from 'node:zlib';
import { Finish } from '@switchyard/proto';
import { afterAll, expect, it } from 'vitest';
import { startCoordinator } from '../src/index.ts';
import { modelDir } from './model-dir.ts';
import { startWithOneWorker } from './one-worker.ts';

const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-rt-'));
afterAll(() => rmSync(folder, { recursive: true }));

const start = (replayRouting: string) =>
  startCoordinator({
    model: modelDir,
    listen: '127.0.0.1:0',
    control: `unix:${path.join(folder, 'c.sock')}`,
    logLevel: 'silent',
    graceMs: 0,
    replayRouting,
  });

const header = (shape: object) => `${JSON.stringify({ format: 'switchyard-trace', version: 1, model: 'm', ...shape })}\n`;
/** That of the bundled model, as its own config.json says. */
const fitting = header({ moeLayers: [0, 1, 2, 3, 4, 5], experts: 32, topK: 4 });
/** Longer than what is read of it, packed or not. */
const records = Buffer.from(Array.from({ length: 300_000 }, (_, i) => (i * i) % 251));

it.each([
  ['folder', null, 'it is no file'],
  ['text', 'Call me Ishmael.\n', 'it is no switchyard-trace of version 1'],
  ['one-line', '{"format":"switchyard-trace"', 'it is no switchyard-trace of version 1'],
  ['null', 'null\n', 'it is no switchyard-trace of version 1'],
  ['layerless', header({ experts: 32, topK: 4 }), 'it is no switchyard-trace of version 1'],
  ['text.gz', 'Call me Ishmael.\n', 'incorrect header check'],
  ['packed.gz', gzipSync('Call me Ishmael.\n'), 'it is no switchyard-trace of version 1'],
  [
    'other',
    header({ moeLayers: [0, 1], experts: 8, topK: 2 }),
    'it is of a model of 2 MoE layers, 8 experts and top 2; this one has 6 MoE',
  ],
])('a %s that cannot be replayed is refused before workers load the model', async (name, content, message) => {
  const file = path.join(folder, name);
  if (content === null) mkdirSync(file);
  else writeFileSync(file, content);
  await expect(start(file)).rejects.toMatchObject({
    code: 'invalid_request',
    message: expect.stringContaining(`--replay-routing ${file}: ${message}`),
  });
});

it.each([
  ['trace', (bytes: Buffer) => bytes],
  ['trace.gz', (bytes: Buffer) => gzipSync(bytes)],
])('a %s of the same shape is taken', async (name, pack) => {
  const file = path.join(folder, name);
  writeFileSync(file, pack(Buffer.concat([Buffer.from(fitting), records])));
  await (await start(file)).close();
});

it('is told to workers by numbers from 1, and 0 where a request names no sequence', async () => {
  const file = path.join(folder, 'told');
  writeFileSync(file, fitting);
  const { coordinator, worker } = await startWithOneWorker(folder, { replayRouting: file });
  for (const [replay_sequence, told] of [
    [undefined, 0],
    [0, 1],
    [7, 8],
  ]) {
    const reply = fetch(`${coordinator.url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ prompt: [100], max_tokens: 1, replay_sequence }),
    });
    const { request, replaySequence } = await worker.next('submit');
    expect(replaySequence).toBe(told);
    worker.tokens({ request: [request], token: [50], finish: [Finish.length], cachedTokens: [0] });
    expect((await reply).status).toBe(200);
  }
  await coordinator.close(0);
});
