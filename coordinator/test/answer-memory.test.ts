import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { Finish } from '@switchyard/proto';
import { afterAll, afterEach, describe, expect, it, vi } from 'vitest';
import { HeldText } from '../src/api/held-text.ts';
import { LeasedMemory } from '../src/api/leased-memory.ts';
import type { RunningCoordinator } from '../src/index.ts';
import { becomes } from './becomes.ts';
import { modelDirOfContext } from './model-dir.ts';
import { startWithOneWorker } from './one-worker.ts';
import type { ScriptedWorker } from './scripted-worker.ts';

const kib = 1024;

// The real bound is more than a test should hold.
const mocked = vi.hoisted(() => ({ answersBytesMax: 0 }));
vi.mock('../src/bounds.ts', async (original) => {
  const { bounds } = await original<typeof import('../src/bounds.ts')>();
  return { bounds: Object.defineProperty({ ...bounds }, 'answersBytesMax', { get: () => mocked.answersBytesMax }) };
});

const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-am-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** Prompts here are longer than the bundled model takes. */
const model = modelDirOfContext(1_000_000, folder);

let coordinator: RunningCoordinator;
let worker: ScriptedWorker;
async function start(answersBytesMax = 400 * kib, apiKeyFile: string | null = null): Promise<void> {
  mocked.answersBytesMax = answersBytesMax;
  const config = { model, graceMs: 0, bodyBytesMax: 8 * kib * kib, apiKeyFile };
  ({ coordinator, worker } = await startWithOneWorker(folder, config, { kvBlocks: 16_384 }));
}
afterEach(async () => {
  vi.restoreAllMocks();
  await coordinator?.close();
});

function post(route: string, body: Record<string, unknown>, key = 'none'): Promise<Response> {
  return fetch(`${coordinator.url}${route}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: `Bearer ${key}` },
    body: JSON.stringify(body),
  });
}

const letter = 'A'.charCodeAt(0) - 30;
const letters = (count: number) => Array<number>(count).fill(letter);

/** Ends the only token of a request. */
function finish(request: number): void {
  worker.tokens({ request: [request], token: [letter], finish: [Finish.length], cachedTokens: [0] });
}

/** Answers of pipelined requests are held whole until the first, which no worker has answered, is there: no socket takes anything of them. */
async function unreadAnswers(requests: readonly [route: string, body: Record<string, unknown>][]) {
  const { hostname, port } = new URL(coordinator.url);
  const socket = net.connect(Number(port), hostname);
  socket.on('error', () => {});
  for (const [route, body] of [['/v1/completions', { prompt: [100], max_tokens: 1 }] as const, ...requests]) {
    const json = JSON.stringify(body);
    socket.write(
      `POST ${route} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: ${json.length}\r\n\r\n${json}`,
    );
  }
  const first = await worker.next('submit');
  return { socket, first: first.request };
}

describe('answers that nobody has read yet', () => {
  it('are refused when all together would take too much, short ones never, and have room again once they are read', async () => {
    await start();
    // 120 KiB of text, twice in the answer, of which 64 KiB are free.
    const { socket, first } = await unreadAnswers([
      ['/detokenize', { tokens: letters(120 * kib) }],
      ['/detokenize', { tokens: letters(120 * kib) }],
    ]);
    const asked = async () => post('/detokenize', { tokens: letters(120 * kib) });
    await becomes(async () => (await asked()).status === 503);
    const refused = await asked();
    expect(refused.headers.get('retry-after')).toBe('1');
    expect(await refused.json()).toMatchObject({
      error: {
        code: 'queue_full',
        message: expect.stringMatching(/^answers and prompts' ids of \d+ bytes are in memory; the limit of all together is 409600$/),
      },
    });
    expect((await post('/detokenize', { tokens: letters(30 * kib) })).status).toBe(200);
    socket.resume();
    finish(first);
    await becomes(async () => (await asked()).status === 200);
    socket.destroy();
  });

  it('are let go when their connection closes', async () => {
    await start();
    const { socket } = await unreadAnswers([
      ['/detokenize', { tokens: letters(120 * kib) }],
      ['/detokenize', { tokens: letters(120 * kib) }],
    ]);
    const asked = async () => post('/detokenize', { tokens: letters(120 * kib) });
    await becomes(async () => (await asked()).status === 503);
    socket.destroy();
    await becomes(async () => (await asked()).status === 200);
  });

  it('are refused before they are made', async () => {
    await start();
    const made = vi.spyOn(JSON, 'stringify');
    const refused = await post('/detokenize', { tokens: letters(300 * kib) });
    expect(refused.status).toBe(503);
    expect(made.mock.calls.some(([value]) => value?.prompt?.length > 0)).toBe(false);
  });

  it.each([{ echo: true }, { return_token_ids: true }])('fail while they grow, as do others of the same request: %o', async (wish) => {
    await start(900 * kib);
    const asked = post('/v1/completions', { prompt: letters(120_000), n: 5, ...wish, max_tokens: 2 });
    const requests = (await worker.submits(5)).map(({ request }) => request);
    const all = <T>(value: T) => requests.map(() => value);
    worker.tokens({ request: requests, token: all(letter), finish: all(Finish.none), cachedTokens: all(0) });
    const refused = await asked;
    expect(refused.status).toBe(503);
    expect(await refused.json()).toMatchObject({ error: { code: 'queue_full' } });
    expect(await worker.next('cancel')).toMatchObject({ request: requests[0] });
  });

  it('count the ids of their tokens before these are text', async () => {
    await start();
    const count = 60_000;
    const asked = post('/v1/completions', { prompt: [100], return_token_ids: true, max_tokens: count + 1 });
    const { request } = await worker.next('submit');
    const all = <T>(value: T) => Array<T>(count).fill(value);
    worker.tokens({ request: all(request), token: all(letter), finish: all(Finish.none), cachedTokens: all(0) });
    expect((await asked).status).toBe(503);
  });

  it('of a stream are cut off', async () => {
    await start(900 * kib);
    const prompt = letters(120_000);
    const { socket, first } = await unreadAnswers([['/v1/completions', { prompt, n: 5, echo: true, max_tokens: 2, stream: true }]]);
    const requests = (await worker.submits(5)).map(({ request }) => request);
    const all = <T>(value: T) => requests.map(() => value);
    worker.tokens({ request: requests, token: all(letter), finish: all(Finish.none), cachedTokens: all(0) });
    expect(await worker.next('cancel')).toMatchObject({ request: requests[0] });
    const closed = once(socket, 'close');
    socket.resume();
    finish(first);
    await closed;
    await becomes(async () => (await post('/detokenize', { tokens: letters(480 * kib) })).status === 200);
  });
});

describe('prompts as ids', () => {
  it('are in memory until their answer is over, once for all choices', async () => {
    await start();
    const asked = (n: number) => post('/v1/completions', { prompt: letters(100 * kib), n, max_tokens: 1 });
    const first = asked(2);
    const submits = await worker.submits(2);
    const refused = await asked(1);
    expect(refused.status).toBe(503);
    expect(await refused.json()).toMatchObject({
      error: {
        code: 'queue_full',
        message: `prompts' ids take ${400 * kib} bytes: answers and prompts' ids of ${(400 - 64) * kib} bytes are in memory; the limit of all together is ${400 * kib}`,
      },
    });
    for (const { request } of submits) finish(request);
    expect((await first).status).toBe(200);
    const second = asked(1);
    finish((await worker.next('submit')).request);
    expect((await second).status).toBe(200);
  });

  it('of one tenant leave room for those of others', async () => {
    const keys = path.join(folder, 'keys');
    writeFileSync(keys, 'a alice\nb bob\n', { mode: 0o600 });
    await start(400 * kib, keys);
    const asked = (key: string, promptIds: number) => post('/v1/completions', { prompt: letters(promptIds), max_tokens: 1 }, key);
    const first = asked('a', 80 * kib);
    const submits = await worker.submits(1);
    const refused = await asked('a', 30 * kib);
    expect(await refused.json()).toMatchObject({
      error: { code: 'queue_full', message: expect.stringMatching(`of your own of ${256 * kib} bytes .* is ${300 * kib}$`) },
    });
    const second = asked('b', 30 * kib);
    submits.push(...(await worker.submits(1)));
    for (const { request } of submits) finish(request);
    expect([(await first).status, (await second).status]).toEqual([200, 200]);
  });

  it('are in memory with the text that is to be echoed', async () => {
    await start();
    const asked = post('/v1/completions', { prompt: letters(100 * kib), max_tokens: 1 });
    finish((await worker.next('submit')).request);
    expect((await asked).status).toBe(200);
    const refused = await post('/v1/completions', { prompt: letters(100 * kib), max_tokens: 1, echo: true });
    expect(refused.status).toBe(503);
    expect(await refused.json()).toMatchObject({ error: { code: 'queue_full', message: expect.stringContaining(`${500 * kib} bytes`) } });
  });

  it('that are refused are requests like those that a full queue refuses', async () => {
    await start();
    expect((await post('/v1/completions', { prompt: letters(120 * kib), n: 3, max_tokens: 1 })).status).toBe(503);
    expect(await (await fetch(`${coordinator.url}/metrics`)).text()).toMatch(/request_params_n_sum\S* 3\n/);
  });

  /** Takes what there is beside the ids of a prompt and its echo, all but a few bytes. */
  async function fillBeside(promptIds: number): Promise<void> {
    const rest = 400 * kib - Math.max(0, (4 + 1) * promptIds - 64 * kib) - 200;
    const half = { tokens: letters((rest / 2 + 64 * kib) / 2) };
    await unreadAnswers([
      ['/detokenize', half],
      ['/detokenize', half],
    ]);
    await becomes(async () => (await post('/detokenize', { tokens: letters(33 * kib) })).status === 503);
  }

  it.each([{ promptIds: 20_000 }, { promptIds: 16_000 }])('of %o have no short answer refused', async ({ promptIds }) => {
    await start();
    const asked = post('/v1/completions', { prompt: letters(promptIds), echo: true, max_tokens: 1 });
    const { request } = await worker.next('submit');
    await fillBeside(promptIds);
    finish(request);
    const answered = await asked;
    expect(answered.status).toBe(200);
    const { choices } = (await answered.json()) as { choices: { text: string }[] };
    expect(choices[0].text).toHaveLength(promptIds + 1);
  });

  it('have no stream cut off whose reader is a little behind', async () => {
    await start();
    const { socket, first } = await unreadAnswers([
      ['/v1/completions', { prompt: letters(20_000), n: 5, echo: true, max_tokens: 1, stream: true }],
    ]);
    const submits = await worker.submits(5);
    await fillBeside(20_000);
    // Of five echoes the socket takes four.
    for (const [i, { request }] of submits.entries()) {
      finish(request);
      const metrics = async () => (await fetch(`${coordinator.url}/metrics`)).text();
      await becomes(async () => /time_to_first_token_seconds_count\S* (\d+)/.exec(await metrics())![1] === String(i + 1));
    }
    finish(first);
    let received = '';
    socket.on('data', (chunk) => {
      received += chunk;
    });
    await becomes(() => received.includes('[DONE]'));
    expect(received.match(/A{20000}/g)).toHaveLength(5);
    socket.destroy();
  });
});

describe('a lease', () => {
  it('holds what it was last told beyond what is free, and nothing once it has ended', () => {
    const memory = LeasedMemory.ofAnswers(100, 10);
    const [one, other] = [memory.lease(), memory.lease()];
    one.hold(90);
    other.hold(30);
    expect(() => other.hold(31)).toThrow("answers and prompts' ids of 100 bytes are in memory; the limit of all together is 100");
    one.hold(50);
    other.hold(70);
    one.end();
    one.hold(1_000);
    other.hold(110);
    expect(() => other.hold(111)).toThrow("answers and prompts' ids of 100 bytes");
  });

  it('leaves a part to other tenants, where there are several', () => {
    const memory = LeasedMemory.ofAnswers(100, 10, 2);
    const [one, more, other] = ['a', 'a', 'b'].map((tenant) => memory.lease(undefined, () => tenant));
    one.hold(60);
    more.hold(35);
    expect(() => more.hold(36)).toThrow("answers and prompts' ids of your own of 75 bytes are in memory; the limit of all together is 75");
    other.hold(35);
    expect(() => other.hold(36)).toThrow("answers and prompts' ids of 100 bytes are in memory; the limit of all together is 100");
    one.end();
    more.hold(85);
    const only = LeasedMemory.ofAnswers(100, 10).lease(undefined, () => 'a');
    only.hold(110);
  });

  it('of a request has a free part of its own beside the others', () => {
    const memory = LeasedMemory.ofAnswers(100, 10);
    const [ids, answer] = [memory.lease("prompts' ids"), memory.lease()];
    ids.hold(110);
    answer.hold(10);
    expect(() => answer.hold(11)).toThrow(/^answers and/);
    expect(() => memory.lease("prompts' ids").hold(11)).toThrow(/^prompts' ids take 11 bytes: answers and prompts' ids of 100 bytes/);
  });
});

describe('held text', () => {
  it('counts parts that are begun until the last of them is made', () => {
    const held = new HeldText();
    held.add('ab');
    held.addLater(['cd', 'ef'], 4);
    expect([held.textChars, held.kept]).toEqual([2, 6]);
    expect(held.take(3)).toBe('abcd');
    expect([held.textChars, held.kept]).toEqual([0, 4]);
    expect(held.take(10)).toBe('ef');
    expect(held.kept).toBe(0);
  });
});
