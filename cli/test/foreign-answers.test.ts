import { once } from 'node:events';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { ApiClient } from '../src/api/client.ts';
import { readClusterStatus } from '../src/api/cluster-status.ts';
import { selectModel } from '../src/api/models.ts';
import { Conversation } from '../src/chat/conversation.ts';
import { observe } from '../src/exact/observation.ts';
import { charsPerTokenByServer } from '../src/load/prompts.ts';
import { timedCompletion } from '../src/load/timed-completion.ts';
import { measureQuality } from '../src/quality/quality-run.ts';

let server: http.Server | null = null;
afterEach(() => void server?.close());

/** A client of a server that answers everything with this. */
async function answering(body: string, { status = 200, type = 'application/json' } = {}): Promise<ApiClient> {
  server = http.createServer((_, response) => response.writeHead(status, { 'content-type': type }).end(body));
  await once(server.listen(0, '127.0.0.1'), 'listening');
  return new ApiClient({ url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, apiKey: null, timeoutMs: 10_000 });
}

const streaming = { type: 'text/event-stream' };
const failure = (message: string) => ({ name: 'CommandFailure', message: expect.stringContaining(message) });
const question = { model: 'm', prompt: 'p', maxTokens: 2, temperature: 0, seed: null, topLogprobs: 1 };
const settings = { model: 'm', temperature: 0, topP: 1, maxTokens: null, seed: null };
const never = new AbortController().signal;

describe('an answer of another kind is a failure in one line:', () => {
  it.each(['<html>', 'null', '[]', '7', ''])('%j where JSON was asked for', async (body) => {
    await expect((await answering(body)).get('/v1/models')).rejects.toMatchObject(failure('GET /v1/models: the answer is no JSON object'));
  });

  it.each(['{"data": 7}', '{"data": [null]}', '{"data": [{"id": 7}]}', '{}'])('%s for a list of models', async (body) => {
    await expect(selectModel(await answering(body), null)).rejects.toMatchObject(failure('no list of models'));
  });

  it.each(['{', 'null', '"t"'])('%s as an event of a stream', async (event) => {
    const client = await answering(`data: ${event}\n\n`, streaming);
    const completion = { model: 'm', prompt: 'p', maxTokens: 2, temperature: 0, ignoreEos: true, extra: {} };
    const message = 'an event of the stream from /v1/completions is no JSON object';
    expect((await timedCompletion(client, completion)).error).toContain(message);
    await expect(observe(client, question, true)).rejects.toMatchObject(failure(message));
  });

  it.each([
    ['{}', 'the answer of /v1/completions has no choices'],
    ['{"choices": [null]}', 'the answer of /v1/completions has no choices'],
    ['{"choices": [{}]}', 'the server returned no logprobs'],
    ['{"choices": [{"logprobs": {"content": [null]}}]}', 'log-probabilities of an unknown form: {"content":[null]}'],
    ['{"choices": [{"logprobs": {"tokens": ["a"], "token_logprobs": []}}]}', 'log-probabilities of an unknown form'],
    ['{"choices": [{"logprobs": {"tokens": ["a"], "token_logprobs": ["b"]}}]}', 'log-probabilities of an unknown form'],
  ])('%s for a completion with log-probabilities', async (body, message) => {
    await expect(observe(await answering(body), question, false)).rejects.toMatchObject(failure(message));
  });

  it.each([
    ['{"choices": []}', 'the answer of /v1/chat/completions has no choices'],
    ['{"choices": [{"message": {"content": 7}}]}', 'the message of /v1/chat/completions is no text'],
  ])('%s to a question of the held-out ones', async (body, message) => {
    const heldOut = { domains: [], questions: [{ question: 'Who?', answer: 'Ahab' }] };
    const client = await answering(body);
    const measuring = measureQuality({ client, model: 'm', heldOut, windowTokens: 8, onProgress: () => {}, signal: never });
    await expect(measuring).rejects.toMatchObject(failure(message));
  });

  it('no usage where the tokens of a text are asked for', async () => {
    await expect(charsPerTokenByServer(await answering('{"usage": null}'), 'm', 'text')).rejects.toMatchObject(
      failure('does not tell how many tokens a prompt has'),
    );
  });
});

describe('of an answer of another kind', () => {
  it.each([
    ['{"error": "no"}', '{"error": "no"}'],
    ['{"error": {"message": 7, "type": []}}', '{"error": {"message": 7, "type": []}}'],
    ['null', 'null'],
    ['', 'HTTP status 400'],
  ])('a refusal %s is told in its own words', async (body, message) => {
    await expect((await answering(body, { status: 400 })).get('/')).rejects.toMatchObject({ name: 'ApiError', status: 400, message });
  });

  it('what is no text and no count is left out', async () => {
    const chunks = ['{"choices": [{"delta": {"content": 7}}]}', '{"choices": 7, "usage": {"prompt_tokens": "x"}}', '[DONE]'];
    const client = await answering(chunks.map((chunk) => `data: ${chunk}\n\n`).join(''), streaming);
    const answer = await new Conversation(client, settings, null).ask('Who?', () => {}, never);
    expect(answer).toEqual({ text: '', finishReason: null, promptTokens: null, outputTokens: null });
  });
});

describe('the status of a server', () => {
  it.each([
    ['{"format": "another"}', 200],
    ['<html>the front page</html>', 200],
    ['[]', 200],
    ['{}', 404],
    ['{}', 405],
    ['{}', 401],
    ['{}', 302],
    ['{}', 410],
  ])('is none where it answers %s with %d', async (body, status) => {
    expect(await readClusterStatus(await answering(body, { status }))).toBeNull();
  });

  it.each([429, 500, 503])('is not known where it answers with %d', async (status) => {
    await expect(readClusterStatus(await answering('{"error": {"message": "busy"}}', { status }))).rejects.toMatchObject({ status });
  });
});

describe('a status', () => {
  it('of many workers is read, though it is larger than any other answer may be', async () => {
    const status = JSON.stringify({ format: 'switchyard-status', model: 'm'.repeat(64 * 1024 * 1024) });
    const client = await answering(status);
    expect((await readClusterStatus(client))?.model).toHaveLength(64 * 1024 * 1024);
    await expect(client.get('/v1/models')).rejects.toMatchObject(failure('the answer exceeds 67108864 bytes'));
  });
});
