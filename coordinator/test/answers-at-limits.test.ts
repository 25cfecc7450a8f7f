import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { contiguousPlan, Finish } from '@switchyard/proto';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { type RunningCoordinator, startCoordinator } from '../src/index.ts';
import { readModelFolder } from '../src/model-folder.ts';
import { tokenBytes } from '../src/tokenizing/token-bytes.ts';
import { readTokenizerFolder } from '../src/tokenizing/tokenizer-folder.ts';
import { modelDir, modelDirOfContext } from './model-dir.ts';
import { startWithOneWorker } from './one-worker.ts';
import { ScriptedWorker } from './scripted-worker.ts';

const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-al-'));
afterAll(() => rmSync(folder, { recursive: true }));

let coordinator: RunningCoordinator;
let serial = 0;
afterEach(() => coordinator?.close(0));

async function start(config: Partial<Parameters<typeof startCoordinator>[0]>, name = 'n0w0'): Promise<ScriptedWorker> {
  const started = await startWithOneWorker(folder, config, { kvBlocks: 100_000 }, name);
  coordinator = started.coordinator;
  return started.worker;
}

const post = (route: string, body: unknown) =>
  fetch(coordinator.url + route, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) });

describe('the context', () => {
  it('is that of the model where more is asked for, and less where less is', async () => {
    const made = readModelFolder(modelDir).contextMax!;
    await start({ maxContext: 100 * made });
    const refused = await post('/v1/completions', { prompt: Array(made + 1).fill(100) });
    expect(refused.status).toBe(400);
    expect((await refused.json()) as object).toMatchObject({ error: { code: 'context_length_exceeded', n_ctx: made } });
    await coordinator.close(0);
    await start({ maxContext: made - 1 });
    expect(coordinator.status()).toMatchObject({ contextMax: made - 1 });
  });
});

describe('a context of which nothing is known', () => {
  it('is left out until a worker has loaded, and then what its cache holds', async () => {
    const control = `unix:${path.join(folder, `${serial++}.sock`)}`;
    const model = modelDirOfContext(null, folder);
    coordinator = await startCoordinator({ model, modelName: 'm', listen: '127.0.0.1:0', control, logLevel: 'silent' });
    const said = async () => {
      const card = (await (await fetch(`${coordinator.url}/v1/models/m`)).json()) as {
        max_model_len?: number;
        meta: { n_ctx_train?: number };
      };
      const counted = (await (await post('/tokenize', { prompt: 'x' })).json()) as { max_model_len?: number };
      return [card.max_model_len, card.meta.n_ctx_train, counted.max_model_len, coordinator.status().contextMax];
    };
    expect(await said()).toEqual([undefined, undefined, undefined, null]);
    const worker = await ScriptedWorker.join(control, 'n0w0');
    worker.ready({ kvBlocks: 64 });
    await worker.next('peers');
    expect(await said()).toEqual([1024, 1024, 1024, 1024]);
  });
});

describe('text of tokens', () => {
  it('is refused beyond its limit, by number', async () => {
    const { vocab, of } = tokenBytes(readTokenizerFolder(modelDir).tokenizer);
    const lengths = Array.from({ length: vocab }, (_, id) => of(id).length);
    const longest = Math.max(...lengths);
    const wordy = lengths.indexOf(longest);
    await start({ bodyBytesMax: 4096 });
    const fits = Math.floor(4096 / longest);
    const asked = (count: number) => post('/detokenize', { tokens: Array(count).fill(wordy) });
    const refused = await asked(fits + 1);
    expect(refused.status).toBe(400);
    expect(((await refused.json()) as { error: object }).error).toMatchObject({
      param: 'tokens',
      message: `tokens stand for ${(fits + 1) * longest} bytes of text; the limit is 4096`,
    });
    expect((await asked(fits)).status).toBe(200);
  });
});

describe('the header that names homes', () => {
  it.each([false, true])('takes workers of any name (stream: %s)', async (stream) => {
    const name = 'Łódź, №1\n';
    const plan = path.join(folder, `${serial}.json`);
    writeFileSync(plan, JSON.stringify(contiguousPlan(readModelFolder(modelDir).plan, [{ name, node: 0 }])));
    const worker = await start({ plan }, name);
    const asked = post('/v1/completions', { prompt: [100], max_tokens: 1, stream });
    const { request } = await worker.next('submit');
    worker.tokens({ request: [request], token: [50], finish: [Finish.length], cachedTokens: [0] });
    const response = await asked;
    expect(response.status).toBe(200);
    expect(response.headers.get('x-switchyard-home')).toBe(`${encodeURIComponent(name)}; only`);
    await response.text();
  });
});
