import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { Finish } from '@switchyard/proto';
import { afterAll, expect, it } from 'vitest';
import { startCoordinator } from '../src/index.ts';
import { modelDir } from './model-dir.ts';
import { ScriptedWorker } from './scripted-worker.ts';

const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-fr-'));
afterAll(() => rmSync(folder, { recursive: true }));

it('what a worker says of requests that are with another is not believed', async () => {
  const control = `unix:${path.join(folder, 'c.sock')}`;
  const traceDir = path.join(folder, 'traces');
  mkdirSync(traceDir);
  const adminTokenFile = path.join(folder, 'admin');
  writeFileSync(adminTokenFile, 'the-operator', { mode: 0o600 });
  const usual = { model: modelDir, listen: '127.0.0.1:0', logLevel: 'silent' as const, graceMs: 0 };
  const coordinator = await startCoordinator({ ...usual, control, nodes: 2, traceDir, adminTokenFile });
  const workers = [await ScriptedWorker.join(control, 'n0w0'), await ScriptedWorker.join(control, 'n1w0')];
  for (const worker of workers) worker.ready();
  for (const worker of workers) await worker.next('peers');
  const post = (route: string, body: Record<string, unknown>) =>
    fetch(`${coordinator.url}${route}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: 'Bearer the-operator' },
      body: JSON.stringify(body),
    });
  await post('/v1/switchyard/trace', { on: true, file: 'a' });
  const asked = post('/v1/completions', { prompt: [100, 101], max_tokens: 1, echo: true, logprobs: 0 });
  const [home, other, request] = await Promise.race(
    workers.map(async (worker, i) => [worker, workers[1 - i], (await worker.next('submit')).request] as const),
  );
  const told = (worker: ScriptedWorker, logprob: number, generated: boolean) => {
    worker.tokens({ prompt: [{ request, logprob: [logprob], top: [] }] });
    worker.send({ type: 'trace', request: [request], position: [0], generated: [generated], experts: new Uint8Array(48) });
  };
  // A stream's messages come in order: what a second sequence of the same worker gets is answered after what was said before.
  const settled = async (worker: ScriptedWorker) => {
    const second = post('/v1/completions', { prompt: [100], max_tokens: 1 });
    const submit = await Promise.race(workers.map(async (taker) => ({ taker, request: (await taker.next('submit')).request })));
    expect(submit.taker).toBe(worker);
    worker.tokens({ request: [submit.request], token: [50], finish: [Finish.length], cachedTokens: [0] });
    await second;
  };
  told(other, -7, true);
  await settled(other);
  told(home, -2, false);
  told(other, -9, true);
  await settled(other);
  home.tokens({ request: [request], token: [50], finish: [Finish.length], cachedTokens: [0], logprob: [-1] });
  const { choices } = (await (await asked).json()) as { choices: { logprobs: { token_logprobs: number[] } }[] };
  expect(choices[0].logprobs.token_logprobs).toEqual([null, -2, -1]);
  expect(await (await post('/v1/switchyard/trace', { on: false })).json()).toMatchObject({ sequences: 1, rows: 1 });
  await coordinator.close();
});
