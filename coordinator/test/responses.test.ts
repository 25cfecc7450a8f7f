import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { Finish, type PromptLogprobs } from '@switchyard/proto';
import { afterAll, afterEach, describe, expect, it, vi } from 'vitest';
import { CompletionFormat } from '../src/api/completion-format.ts';
import { HeldText } from '../src/api/held-text.ts';
import { PacedWriter } from '../src/api/paced-writer.ts';
import { bounds } from '../src/bounds.ts';
import type { RunningCoordinator, startCoordinator } from '../src/index.ts';
import { Answer } from '../src/requests/answer.ts';
import { TextThread } from '../src/tokenizing/text-thread.ts';
import { Tokenizing } from '../src/tokenizing/tokenizing.ts';
import { becomes } from './becomes.ts';
import { modelDirOfContext } from './model-dir.ts';
import { startWithOneWorker } from './one-worker.ts';
import type { ScriptedWorker } from './scripted-worker.ts';

// Real bounds are a minute and more memory than a test should take.
vi.mock('../src/bounds.ts', async (original) => {
  const { bounds } = await original<typeof import('../src/bounds.ts')>();
  return {
    bounds: { ...bounds, readerStallMs: 1_500, collectedCharsMax: 40 * 1024 * 1024, tokenizingQueueMax: 1, tokenizingMsMax: 3_000 },
  };
});

const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-re-'));
afterAll(() => rmSync(folder, { recursive: true }));
/** Prompts here are far longer than the bundled model takes. */
const modelDir = modelDirOfContext(1_000_000, folder);

let coordinator: RunningCoordinator;
let worker: ScriptedWorker;
afterEach(() => coordinator?.close(0));
afterEach(() => void vi.restoreAllMocks());

async function start(config: Partial<Parameters<typeof startCoordinator>[0]> = {}): Promise<void> {
  const usual = { model: modelDir, modelName: 'm', metricsCompat: 'vllm' as const, bodyBytesMax: 64 * 1024 * 1024 };
  ({ coordinator, worker } = await startWithOneWorker(folder, { ...usual, ...config }, { kvBlocks: 100_000 }));
}

interface Reply {
  status: number;
  text: string;
  json: () => {
    choices: { text: string; logprobs: { tokens: string[]; token_logprobs: number[] } | null }[];
    error: { code: string; message: string };
  };
}

async function complete(body: Record<string, unknown>, signal?: AbortSignal): Promise<Reply> {
  const response = await fetch(`${coordinator.url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ prompt: [100, 101], max_tokens: 4, ...body }),
    ...(signal === undefined ? {} : { signal }),
  });
  const text = await response.text();
  return { status: response.status, text, json: () => JSON.parse(text) };
}

const id = (char: string) => char.charCodeAt(0) - 30; // Printable ASCII of the bundled vocabulary.

/** A token each for requests that end with it. */
function finish(requests: number[], prompt: PromptLogprobs[] = []): void {
  worker.tokens({
    request: requests,
    token: requests.map(() => id('A')),
    finish: requests.map(() => Finish.length),
    cachedTokens: requests.map(() => 0),
    logprob: requests.map(() => -1),
    prompt,
  });
}

/** As many as the argument lists of a call cannot hold. */
const manyTokens = 130_000;
const longPrompt = Array.from({ length: manyTokens }, (_, i) => 100 + (i % 1000));

function promptLogprobs(request: number, alternatives: number) {
  const top = {
    token: Array.from({ length: alternatives }, (_, i) => 300 + i),
    logprob: Array.from({ length: alternatives }, (_, i) => -i - 1 / 3),
  };
  return {
    request,
    logprob: Array.from({ length: manyTokens - 1 }, () => -1 / 3),
    top: alternatives === 0 ? [] : Array.from({ length: manyTokens - 1 }, () => top),
  } satisfies PromptLogprobs;
}

/** A whole answer, complete and far larger than a socket holds, that nobody has read yet. */
async function unreadAnswer() {
  const socket = silentRequest({ prompt: longPrompt, echo: true, logprobs: 5 });
  const { request } = await worker.next('submit');
  finish([request], [promptLogprobs(request, 5)]);
  await becomes(() => running().running === 0);
  return socket;
}

/** Sends a request over a connection of its own, from which nothing is read. */
function silentRequest(body: Record<string, unknown>): net.Socket {
  const { hostname, port } = new URL(coordinator.url);
  const socket = net.connect(Number(port), hostname);
  const json = JSON.stringify(body);
  socket.on('error', () => {});
  socket.pause();
  socket.write(head('/v1/completions', Buffer.byteLength(json)) + json);
  return socket;
}

function head(route: string, bytes: number): string {
  return `POST ${route} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: ${bytes}\r\n\r\n`;
}

/** All that comes until the connection ends. */
async function rest(socket: net.Socket): Promise<string> {
  let text = '';
  socket.on('data', (chunk) => {
    text += chunk.toString('latin1');
  });
  socket.resume();
  await once(socket, 'close');
  return text;
}

async function metric(name: string): Promise<number> {
  const line = (await (await fetch(`${coordinator.url}/metrics`)).text()).split('\n').find((text) => text.startsWith(name));
  return Number(line?.split(' ').at(-1));
}

const running = () => (coordinator.status() as { requests: { running: number; waiting: number } }).requests;

describe('a long answer', () => {
  it('has the log-probabilities of a prompt of any length', async () => {
    await start();
    const asked = complete({ prompt: longPrompt, echo: true, logprobs: 0, max_tokens: 1 });
    const { request } = await worker.next('submit');
    finish([request], [promptLogprobs(request, 0)]);
    const { logprobs } = (await asked).json().choices[0];
    expect(logprobs!.token_logprobs).toHaveLength(manyTokens + 1);
    expect(logprobs!.token_logprobs.slice(-2)).toEqual([Math.fround(-1 / 3), -1]);
  });

  it.each([false, true])('is put together in parts, a turn of the event loop each (stream: %s)', async (stream) => {
    await start();
    const turns: number[] = [];
    let turn = 0;
    let next = setImmediate(function count() {
      turn++;
      next = setImmediate(count);
    });
    const take = HeldText.prototype.take;
    const taken = vi.spyOn(HeldText.prototype, 'take').mockImplementation(function (this: HeldText, charsMin) {
      turns.push(turn);
      return take.call(this, charsMin);
    });
    const asked = complete({ prompt: longPrompt.slice(0, 5_000), echo: true, logprobs: 20, max_tokens: 1, stream });
    const { request } = await worker.next('submit');
    const { logprob, top } = promptLogprobs(request, 20);
    finish([request], [{ request, logprob: logprob.slice(0, 4_999), top: top.slice(0, 4_999) }]);
    const { text } = await asked;
    clearImmediate(next);
    expect(new Set(turns).size).toBe(turns.length);
    const lengths = taken.mock.results.map(({ value }) => value.length);
    expect(lengths.length).toBeGreaterThan(20);
    expect(Math.max(...lengths)).toBeLessThan(2 * bounds.charsOfTurn);
    const { tokens, top_logprobs } = JSON.parse(stream ? text.slice('data: '.length, text.indexOf('\n\n')) : text).choices[0].logprobs;
    expect(tokens).toHaveLength(5_001);
    expect(Object.keys(top_logprobs[4_999])).toHaveLength(21);
  });

  it('is not held against its reader: a stream may begin with more than is held for a slow one', async () => {
    await start();
    const prompts = 6;
    const prompt = Array.from({ length: prompts }, () => longPrompt.slice(0, 5_000));
    const asked = complete({ prompt, echo: true, logprobs: 20, max_tokens: 1, stream: true });
    const requests = (await worker.submits(prompts)).map(({ request }) => request);
    const { logprob, top } = promptLogprobs(0, 20);
    finish(
      requests,
      requests.map((request) => ({ request, logprob: logprob.slice(0, 4_999), top: top.slice(0, 4_999) })),
    );
    const { text } = await asked;
    expect(text.length).toBeGreaterThan(bounds.heldBytesMax);
    expect(text.match(/"finish_reason":"length"/g)).toHaveLength(prompts);
    expect(text.endsWith('data: [DONE]\n\n')).toBe(true);
  });

  it('is not held against its reader where its echoes come while the first is being written', async () => {
    await start();
    const { hostname, port } = new URL(coordinator.url);
    const socket = net.connect(Number(port), hostname);
    const first = JSON.stringify({ prompt: [100], max_tokens: 1 });
    // Its writing begins, and waits for the answer before it.
    const prompts = 6;
    const prompt = Array.from({ length: prompts }, () => longPrompt.slice(0, 5_000));
    const second = JSON.stringify({ prompt, echo: true, logprobs: 20, max_tokens: 1, stream: true });
    socket.write(head('/v1/completions', first.length).replace('connection: close\r\n', '') + first);
    socket.write(head('/v1/completions', second.length) + second);
    const [one, ...others] = (await worker.submits(1 + prompts)).map(({ request }) => request);
    const { logprob, top } = promptLogprobs(0, 20);
    for (const request of others) finish([request], [{ request, logprob: logprob.slice(0, 4_999), top: top.slice(0, 4_999) }]);
    await becomes(() => running().running === 1);
    finish([one]);
    const text = await rest(socket);
    expect(text.match(/"finish_reason":"length"/g)).toHaveLength(1 + prompts);
    expect(text).toMatch(/data: \[DONE\]\n\n/);
  });

  it.each([false, true])('leaves none of the log-probabilities of its prompt with what outlives it (stream: %s)', async (stream) => {
    await start();
    const accept = vi.spyOn(Answer.prototype, 'acceptPrompt');
    const asked = complete({ prompt: [100, 101], echo: true, logprobs: 1, max_tokens: 1, stream });
    const { request } = await worker.next('submit');
    finish([request], [{ request, logprob: [-1], top: [{ token: [300], logprob: [-2] }] }]);
    expect((await asked).text).toContain('"token_logprobs":[null,-1,-1]');
    const answer = accept.mock.contexts[0] as Answer;
    expect([answer.promptReports, answer.reports]).toEqual([null, []]);
  });

  it('beyond its limit fails alone, and its worker is told', async () => {
    await start();
    const large = complete({ prompt: longPrompt, echo: true, logprobs: 20 });
    const first = await worker.next('submit');
    const small = complete({});
    const second = await worker.next('submit');
    worker.tokens({
      request: [first.request, second.request],
      token: [id('A'), id('B')],
      finish: [Finish.none, Finish.length],
      cachedTokens: [0, 0],
      logprob: [-1],
      prompt: [promptLogprobs(first.request, 20)],
    });
    expect((await small).json().choices[0].text).toBe('B');
    const refused = await large;
    expect(refused.status).toBe(400);
    expect(refused.json().error).toMatchObject({ code: 'invalid_request', message: expect.stringContaining('longer than 41943040') });
    expect(await worker.next('cancel')).toMatchObject({ request: first.request });
    expect(await metric('switchyard_request_success_total{model_name="m",finished_reason="error"}')).toBe(1);
  });
});

describe('a defect in writing one answer', () => {
  it.each([false, true])("is that request's alone (stream: %s)", async (stream) => {
    await start();
    const broken = complete({ stream });
    const first = await worker.next('submit');
    const whole = complete({ stream });
    const second = await worker.next('submit');
    vi.spyOn(CompletionFormat.prototype, stream ? 'closing' : 'choice').mockImplementationOnce(() => {
      throw new TypeError('a defect');
    });
    finish([first.request, second.request]);
    const [failed, answered] = await Promise.all([broken, whole]);
    expect(answered.status).toBe(200);
    expect(answered.text).toContain('"finish_reason":"length"');
    expect(failed.status).toBe(stream ? 200 : 500);
    expect(failed.text).toContain('"code":"internal"');
    expect(failed.text).not.toContain('a defect');
    await becomes(() => running().running === 0);
  });
});

describe('a reader', () => {
  /** A server whose one answer is far more than sockets hold, and what it has sent. */
  async function serve(stallMs: number): Promise<{ socket: net.Socket; closed: Promise<unknown>; close: () => void }> {
    let closed: Promise<unknown> = Promise.resolve();
    const server = http.createServer((_, response) => {
      closed = once(response, 'close');
      const writer = new PacedWriter(response, () => {}, stallMs);
      writer.write([Buffer.alloc(answerBytes, 'x')]);
      writer.end();
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const socket = net.connect((server.address() as net.AddressInfo).port, '127.0.0.1');
    socket.pause();
    socket.on('error', () => {});
    const requested = once(server, 'request');
    socket.write('GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n');
    await requested;
    return { socket, closed, close: () => void server.close() };
  }
  const answerBytes = 48 * 1024 * 1024;

  it('that takes nothing is cut off, one that is slow is not', async () => {
    const stalled = await serve(400);
    await stalled.closed;
    expect((await rest(stalled.socket)).length).toBeLessThan(answerBytes);
    stalled.close();

    const slow = await serve(1_000);
    let bytes = 0;
    const started = performance.now();
    while (!slow.socket.readableEnded && !slow.socket.destroyed) {
      // Twice as long for all of it as a reader may take nothing.
      const due = answerBytes * ((performance.now() - started) / 3_000);
      const chunk = bytes < due ? (slow.socket.read() as Buffer | null) : null;
      if (chunk !== null) bytes += chunk.length;
      else await new Promise((resolve) => setTimeout(resolve, 5));
    }
    expect(performance.now() - started).toBeGreaterThan(1_500);
    expect(bytes).toBeGreaterThan(answerBytes);
    slow.close();
  });

  it('of pipelined answers has the second held until the first is there', async () => {
    await start();
    const { hostname, port } = new URL(coordinator.url);
    const socket = net.connect(Number(port), hostname);
    const first = JSON.stringify({ prompt: [100], max_tokens: 1 });
    const second = JSON.stringify({ prompt: longPrompt, echo: true, logprobs: 0, max_tokens: 2, stream: true });
    socket.write(head('/v1/completions', first.length).replace('connection: close\r\n', '') + first);
    socket.write(head('/v1/completions', second.length) + second);
    const [one, other] = (await worker.submits(2)).map(({ request }) => request);
    worker.tokens({
      request: [other],
      token: [id('B')],
      finish: [0],
      cachedTokens: [0],
      logprob: [-1],
      prompt: [promptLogprobs(other, 0)],
    });
    // Longer than a reader may take nothing: this one cannot.
    await new Promise((resolve) => setTimeout(resolve, 2_000));
    finish([other]);
    await becomes(() => running().running === 1);
    finish([one]);
    const text = await rest(socket);
    expect(text.match(/HTTP\/1\.1 200/g)).toHaveLength(2);
    expect(text).toMatch(/"text":"A"[\s\S]*data: \[DONE\]\n\n/);
  });

  it('of pipelined answers is given the rest of a second that filled its share before it had the connection', async () => {
    const responses: http.ServerResponse[] = [];
    const size = bounds.socketPendingBytesMax + 2_000;
    const server = http.createServer((_, response) => {
      if (responses.push(response) === 1) return;
      const writer = new PacedWriter(response, () => writer.end(), 1_000);
      writer.write([Buffer.alloc(size, 'x')]);
      responses[0].end();
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const socket = net.connect((server.address() as net.AddressInfo).port, '127.0.0.1');
    const request = 'GET / HTTP/1.1\r\nhost: localhost\r\n';
    socket.write(`${request}\r\n${request}connection: close\r\n\r\n`);
    const text = await rest(socket);
    expect(text.match(/x/g)).toHaveLength(size);
    expect(text.endsWith('0\r\n\r\n')).toBe(true);
    server.close();
  });

  it('of a whole answer is cut off like one of a stream', async () => {
    await start();
    const socket = await unreadAnswer();
    // It ends by itself long before the grace does, and without the end of the answer.
    const started = performance.now();
    await coordinator.close(40_000);
    expect(performance.now() - started).toBeLessThan(20_000);
    expect((await rest(socket)).endsWith('}')).toBe(false);
  });
});

describe('a connection that closes', () => {
  it('takes its prompts from the queue of those that are to be tokenised', async () => {
    await start();
    const queue = vi.spyOn(TextThread.prototype, 'encode');
    const entered = (count: number) => becomes(() => queue.mock.results.length === count);
    // Occupies the thread: one endless word, which is given up in the end.
    let given = false;
    const endless = complete({ prompt: ' '.repeat(400_000) }).finally(() => {
      given = true;
    });
    await entered(1);
    const left = silentRequest({ prompt: Array(64).fill(`one of many ${'short texts '.repeat(10)}`) });
    await entered(2);
    left.destroy();
    // There is room for one that waits, as soon as the other's end is noticed.
    let next = complete({ prompt: 'Call me Ishmael. '.repeat(200) });
    for (let tries = 3; await entered(tries).then(() => queue.mock.results.at(-1)!.type === 'throw'); tries++) {
      expect((await next).json().error.code).toBe('queue_full');
      next = complete({ prompt: 'Call me Ishmael. '.repeat(200) });
    }
    expect(given).toBe(false);
    expect((await endless).json().error.message).toContain('longer than 3000 ms');
    finish([(await worker.next('submit')).request]);
    expect((await next).json().choices[0].text).toBe('A');
  });

  it('ends every request that came on it, also those whose turn had not come', async () => {
    await start();
    const { hostname, port } = new URL(coordinator.url);
    const socket = net.connect(Number(port), hostname);
    const body = JSON.stringify({ prompt: [100], max_tokens: 4 });
    socket.write((head('/v1/completions', body.length).replace('connection: close\r\n', '') + body).repeat(3));
    const requests = (await worker.submits(3)).map(({ request }) => request);
    socket.destroy();
    const cancelled: number[] = [];
    while (cancelled.length < 3) cancelled.push((await worker.next('cancel')).request);
    expect(cancelled.sort()).toEqual(requests.sort());
    finish(requests);
    await coordinator.close(30_000);
  });
});

describe('a shutdown', () => {
  it('waits within the grace for a request that is still on its way here, and takes no new one', async () => {
    await start();
    const body = JSON.stringify({ prompt: [100], max_tokens: 1 });
    const { hostname, port } = new URL(coordinator.url);
    const socket = net.connect(Number(port), hostname);
    socket.write(head('/v1/completions', body.length) + body.slice(0, 5));
    await becomes(async () => (await metric('switchyard_control_plane_up')) === 1);
    const closing = coordinator.close(30_000);
    expect((await complete({})).json().error.code).toBe('shutting_down');
    socket.write(body.slice(5));
    const { request } = await worker.next('submit');
    finish([request]);
    expect(await rest(socket)).toMatch(/^HTTP\/1\.1 200 [\s\S]*"text":"A"/);
    await closing;
  });

  it('waits for an answer that is still on its way to a slow reader', async () => {
    await start();
    const socket = await unreadAnswer();
    const closing = coordinator.close(30_000);
    await becomes(async () => (await fetch(`${coordinator.url}/health/ready`)).status === 503);
    expect((await rest(socket)).endsWith('}')).toBe(true);
    await closing;
  });

  it('after the grace tells who has had no answer', async () => {
    await start();
    const { hostname, port } = new URL(coordinator.url);
    const socket = net.connect(Number(port), hostname);
    socket.write(`${head('/v1/completions', 100)}{"prompt":`);
    await becomes(async () => (await metric('switchyard_control_plane_up')) === 1);
    const text = rest(socket);
    await coordinator.close(50);
    expect(await text).toMatch(/^HTTP\/1\.1 503 [\s\S]*shutting_down/);
  });
});

describe('metrics', () => {
  it('count what waits in the coordinator as waiting, under the names that people scale by', async () => {
    await start({ requestsRunningMax: 1 });
    const asked = [complete({}), complete({})];
    const first = await worker.next('submit');
    await becomes(() => running().waiting === 1);
    expect(await metric('vllm:num_requests_waiting{model_name="m"}')).toBe(1);
    finish([first.request]);
    finish([(await worker.next('submit')).request]);
    await Promise.all(asked);
    expect(await metric('vllm:num_requests_waiting{model_name="m"}')).toBe(0);
  });

  it('count the time that a prompt takes to become tokens as time that its request waits', async () => {
    await start();
    const encodeAll = vi.spyOn(Tokenizing.prototype, 'encodeAll');
    let tokenised: () => void = () => {};
    encodeAll.mockImplementationOnce(
      () =>
        new Promise((resolve) => {
          tokenised = () => resolve([Int32Array.of(100)]);
        }),
    );
    const asked = complete({ prompt: 'x' });
    await becomes(() => encodeAll.mock.calls.length === 1);
    const startedMs = performance.now();
    for (let i = 0; i < 20; i++) await metric('switchyard_control_plane_up');
    const tookMs = performance.now() - startedMs;
    tokenised();
    finish([(await worker.next('submit')).request]);
    await asked;
    expect(1000 * (await metric('switchyard_request_queue_time_seconds_sum'))).toBeGreaterThan(tookMs);
    expect(1000 * (await metric('switchyard_time_to_first_token_seconds_sum'))).toBeGreaterThan(tookMs);
  });

  it('count every sequence of a request that was given up', async () => {
    await start();
    const gone = new AbortController();
    const asked = complete({ n: 3, max_tokens: 9 }, gone.signal).catch(() => null);
    const submits = await worker.submits(3);
    finish([submits[0].request]);
    await becomes(async () => (await metric('switchyard_request_success_total{model_name="m",finished_reason="length"}')) === 1);
    gone.abort();
    await asked;
    await becomes(async () => (await metric('switchyard_request_success_total{model_name="m",finished_reason="abort"}')) === 2);
  });
});
