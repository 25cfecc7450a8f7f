import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { Finish } from '@switchyard/proto';
import { afterAll, afterEach, describe, expect, it, vi } from 'vitest';
import type { RunningCoordinator, startCoordinator } from '../src/index.ts';
import { Tokenizing } from '../src/tokenizing/tokenizing.ts';
import { startWithOneWorker } from './one-worker.ts';
import type { ScriptedWorker } from './scripted-worker.ts';

const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-fi-'));
afterAll(() => rmSync(folder, { recursive: true }));

let coordinator: RunningCoordinator;
let worker: ScriptedWorker;
afterEach(() => coordinator?.close(0));
afterEach(() => void vi.restoreAllMocks());

async function start(config: Partial<Parameters<typeof startCoordinator>[0]> = {}): Promise<void> {
  ({ coordinator, worker } = await startWithOneWorker(folder, config));
}

const plain = '/v1/completions';
const chat = '/v1/chat/completions';

interface Reply {
  status: number;
  json: { choices?: unknown[]; usage?: unknown; error?: { code: string; message: string; param: string | null } };
}

async function post(route: string, body: Record<string, unknown>): Promise<Reply> {
  const given = route === plain ? { prompt: [100] } : { messages: [{ role: 'user', content: 'x' }] };
  const response = await fetch(coordinator.url + route, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ ...given, ...body }),
  });
  return { status: response.status, json: (await response.json()) as Reply['json'] };
}

/** Answers what has been submitted with a token each. */
async function answer(sequences: number): Promise<void> {
  const request = (await worker.submits(sequences)).map((submit) => submit.request);
  const each = <T>(value: T) => request.map(() => value);
  worker.tokens({ request, token: each(50), finish: each(Finish.length), cachedTokens: each(0) });
}

describe('more sequences than may run and wait together', () => {
  it.each([
    [chat, { n: 6 }, 'n is 6; it must be from 1 to 5'],
    [plain, { n: 6 }, 'n is 6; it must be from 1 to 5'],
    [plain, { n: 2, prompt: [[1], [2], [3]] }, 'n 2 and 3 prompts make 6 sequences; the limit is 5'],
    [plain, { prompt: ['1', '2', '3', '4', '5', '6'] }, 'prompt has 6 prompts; the limit is 5'],
  ])('are the fault of the request (%s %o)', async (route, body, message) => {
    await start({ requestsRunningMax: 2, requestsWaitingMax: 3 });
    const { status, json } = await post(route, { ...body, max_tokens: 1 });
    expect([status, json.error]).toMatchObject([400, { code: 'invalid_request', param: message.split(' ')[0], message }]);
    const most = post(chat, { n: 5, max_tokens: 1 });
    await answer(2);
    await answer(2);
    await answer(1);
    expect((await most).json.choices).toHaveLength(5);
  });
});

describe('best_of', () => {
  it('is taken where it asks for nothing else than n', async () => {
    await start();
    const alike = post(plain, { n: 2, best_of: 2, max_tokens: 1 });
    await answer(2);
    expect((await alike).json.choices).toHaveLength(2);
    const { status, json } = await post(plain, { best_of: 2 });
    expect([status, json.error]).toMatchObject([400, { param: 'best_of', message: 'best_of is supported only where it is n, 1: use n' }]);
  });
});

describe('min_tokens', () => {
  it.each([
    [chat, { min_tokens: 5, max_tokens: 4 }, 'min_tokens is 5; max_tokens is 4'],
    [chat, { min_tokens: 5, max_completion_tokens: 4, max_tokens: 9 }, 'min_tokens is 5; max_completion_tokens is 4'],
    [plain, { min_tokens: 1, max_tokens: 0 }, 'min_tokens is 1; max_tokens is 0'],
    [plain, { min_tokens: 1024 }, 'min_tokens is 1024; the context has room for 1023 tokens of answer'],
  ])('above what may be generated is refused (%s %o)', async (route, body, message) => {
    await start();
    const { status, json } = await post(route, body);
    expect([status, json.error]).toMatchObject([400, { code: 'invalid_request', param: 'min_tokens', message }]);
    const most = post(plain, { min_tokens: 1023 });
    expect((await worker.next('submit')).minTokens).toBe(1023);
    await coordinator.close(0);
    await most;
  });
});

describe('a prediction', () => {
  it.each(['Call me', [{ type: 'text', text: 'Call me' }], ''])('goes to the worker and is no part of the prompt (%o)', async (content) => {
    await start();
    const reply = post(chat, { prediction: { type: 'content', content }, max_tokens: 1 });
    const submit = (await worker.submits(1))[0];
    const without = post(chat, { max_tokens: 1 });
    expect((await worker.submits(1))[0]).toMatchObject({ prompt: submit.prompt, prediction: [] });
    const spelled = await fetch(`${coordinator.url}/detokenize`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ tokens: Array.from(submit.prediction) }),
    });
    expect(await spelled.json()).toMatchObject({ prompt: content === '' ? '' : 'Call me' });
    await coordinator.close(0);
    await Promise.all([reply, without]);
  });

  it('is counted by what came of it, as the answer has it', async () => {
    await start();
    const reply = post(chat, { prediction: { type: 'content', content: 'Call me Ishmael. Some years ago' }, max_tokens: 9, n: 2 });
    const submits = await worker.submits(2);
    const predicted = Array.from(submits[0].prediction);
    expect(predicted.length).toBeGreaterThan(4);
    // One says all of it, the other nothing.
    const said = [predicted, predicted.map((token) => token + 1)];
    for (const [i, { request }] of submits.entries())
      for (const [t, token] of said[i].entries())
        worker.tokens({
          request: [request],
          token: [token],
          finish: [t + 1 < predicted.length ? Finish.none : Finish.length],
          cachedTokens: [0],
        });
    const counts = { accepted_prediction_tokens: predicted.length, rejected_prediction_tokens: predicted.length };
    expect((await reply).json.usage).toMatchObject({ completion_tokens: 2 * predicted.length, completion_tokens_details: counts });
  });

  it('that no answer can be as long as is refused', async () => {
    await start();
    for (const [content, tokens] of [
      [Array.from({ length: 1025 }, (_, i) => 'ab'[i % 2]).join(' '), /^the prediction has \d+ tokens; the context has 1024$/],
      ['x'.repeat(200_000), /^the prediction has at least \d+ tokens; the context has 1024$/],
    ] as const)
      expect(await post(chat, { prediction: { type: 'content', content } })).toMatchObject({
        status: 400,
        json: { error: { code: 'context_length_exceeded', param: 'prediction', message: expect.stringMatching(tokens) } },
      });
  });

  it.each([
    ['Call me', 'prediction is the string "Call me"; an object is needed', 'prediction'],
    [[], 'prediction is a list; an object is needed', 'prediction'],
    [{ content: 'Call me' }, 'prediction.type is missing; "content" is needed', 'prediction.type'],
    [{ type: 'text', content: 'Call me' }, 'prediction.type is "text"; it must be one of content', 'prediction.type'],
    [{ type: 'content' }, 'prediction.content is missing', 'prediction.content'],
    [
      { type: 'content', content: 7 },
      'prediction.content is the number 7; a string or a list of text parts is needed',
      'prediction.content',
    ],
    [{ type: 'content', content: [7] }, 'prediction.content part 0 is the number 7; an object is needed', 'prediction.content'],
  ])('that is none is refused by name (%o)', async (prediction, message, param) => {
    await start();
    expect(await post(chat, { prediction })).toMatchObject({ status: 400, json: { error: { message, param } } });
  });
});

describe('what an assistant refused to say', () => {
  it('is what it said', async () => {
    await start();
    const asked = { role: 'user', content: 'How?' };
    const prompts: number[][] = [];
    for (const said of [{ content: null, refusal: 'I will not.' }, { refusal: 'I will not.' }, { content: 'I will not.', refusal: null }]) {
      const reply = post(chat, { messages: [asked, { role: 'assistant', ...said }, asked], max_tokens: 1 });
      const { request, prompt } = await worker.next('submit');
      prompts.push(Array.from(prompt));
      worker.tokens({ request: [request], token: [50], finish: [Finish.length], cachedTokens: [0] });
      expect((await reply).status).toBe(200);
    }
    expect(prompts[0]).toEqual(prompts[2]);
    expect(prompts[1]).toEqual(prompts[2]);
  });

  it.each([
    [{ role: 'user', content: null, refusal: 'x' }, 'messages[0].content is missing'],
    [{ role: 'assistant', refusal: 7 }, 'messages[0].refusal is the number 7; a string is needed'],
  ])('is of an assistant, and text (%o)', async (message, problem) => {
    await start();
    expect(await post(chat, { messages: [message] })).toMatchObject({ status: 400, json: { error: { message: problem } } });
  });
});

describe('a domain', () => {
  it.each([
    ['UTF-8', Buffer.from('Zauberflöte 魔笛').toString('latin1'), 'Zauberflöte 魔笛'],
    ['Latin-1', 'Zauberflöte', 'Zauberflöte'],
    ['too long, in whole characters', Buffer.from(`x${'🙂'.repeat(64)}`).toString('latin1'), `x${'🙂'.repeat(63)}`],
  ])('in the header is the same as in metadata, as %s', async (_, header, domain) => {
    await start();
    const reply = fetch(coordinator.url + plain, {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'x-switchyard-domain': header },
      body: JSON.stringify({ prompt: [100], max_tokens: 1 }),
    });
    expect((await worker.next('submit')).domain).toBe(domain);
    await coordinator.close(0);
    await reply;
  });

  it.each([
    [plain, { prompt: 'x' }],
    [chat, {}],
  ])('that is none is refused before the text is turned into ids (%s)', async (route, body) => {
    await start();
    const encode = vi.spyOn(Tokenizing.prototype, 'encodeAll');
    const refused = await post(route, { ...body, metadata: { domain: 5 } });
    expect([refused.status, refused.json.error?.param]).toEqual([400, 'metadata.domain']);
    expect(encode).not.toHaveBeenCalled();
  });
});

describe('/tokenize', () => {
  const ids = async (body: Record<string, unknown>) => {
    const { status, json } = await post('/tokenize', body);
    return status === 200 ? (json as { tokens: number[] }).tokens : json.error!.message;
  };
  const text = '<|im_start|>Größe 🙂';

  it('reads control tokens in a text unless told not to, under either name', async () => {
    await start();
    const read = (await ids({ prompt: text })) as number[];
    expect(read[0]).toBe(1);
    expect(await ids({ prompt: text, parse_special: true })).toEqual(read);
    expect(await ids({ content: text })).toEqual(read);
    expect(await ids({ content: text, prompt: text })).toEqual(read);
    const plainly = (await ids({ prompt: text, parse_special: false })) as number[];
    expect(plainly).not.toContain(1);
    expect(plainly.length).toBeGreaterThan(read.length);
  });

  it('says what each token reads as, where that is asked for', async () => {
    await start();
    const {
      tokens,
      token_strs: texts,
      count,
    } = (await post('/tokenize', { prompt: text, return_token_strs: true })).json as never as {
      tokens: number[];
      token_strs: string[];
      count: number;
    };
    expect([texts.length, count]).toEqual([tokens.length, tokens.length]);
    expect([texts[0], texts.slice(1, 3).join('')]).toEqual(['<|im_start|>', 'Gr']);
    expect((await post('/tokenize', { prompt: text, return_token_strs: false })).json).not.toHaveProperty('token_strs');
  });

  it('needs a text or messages', async () => {
    await start();
    expect(await ids({ messages: null })).toBe('prompt is missing');
    expect(await ids({ messages: null, prompt: 5 })).toBe('prompt is the number 5; a string is needed');
    expect(((await ids({})) as number[])[0]).toBe(1);
  });
});
