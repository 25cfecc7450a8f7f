import { once } from 'node:events';
import { connect } from 'node:net';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Cluster, model, post, startCluster, status, until } from './cluster.ts';
import { exchangeBytes, statusOf } from './raw-http.ts';

let cluster: Cluster;
beforeAll(async () => {
  cluster = await startCluster({ flags: ['--headers-timeout-ms', '1000', '--request-timeout-ms', '2000', '--body-bytes-max', '262144'] });
});
afterAll(() => cluster?.stop());

const chat = '/v1/chat/completions';
const plain = '/v1/completions';
const good = { model, messages: [{ role: 'user', content: 'hello' }], max_tokens: 1 };
const goodPlain = { model, prompt: 'hello', max_tokens: 1 };

/** Whatever was done before, the server goes on. */
async function expectAlive(): Promise<void> {
  expect((await post(cluster, chat, good)).status).toBe(200);
  expect(cluster.coordinator.exitCode).toBeNull();
}

function expectEnvelope(reply: { status: number; text: string; headers: Headers }): {
  message: string;
  param: string | null;
  code: string;
} {
  expect(reply.headers.get('x-request-id')).toBeTruthy();
  const { error } = JSON.parse(reply.text);
  expect(error).toMatchObject({ message: expect.any(String), type: expect.any(String), code: expect.any(String) });
  expect(error).toHaveProperty('param');
  return error;
}

describe('what is not a request', () => {
  it.each([
    ['{"model":}', 9, 1, 10],
    ['', 0, 1, 1],
    ['{"a":1', 6, 1, 7],
    ['{"a":1,\n "b" 2}', 13, 2, 6],
    ['[1,2', 4, 1, 5],
    ['{"a":tru}', 8, 1, 9],
    ['{"a":01}', 5, 1, 6],
    ['{"a":"\\x"}', 6, 1, 7],
    ['{"a":1}x', 7, 1, 8],
    ['{"a":1,}', 7, 1, 8],
    ["{'a':1}", 1, 1, 2],
    ['NaN', 0, 1, 1],
  ])('malformed JSON %j is answered with its position', async (body, position, line, column) => {
    const reply = await post(cluster, chat, body);
    expect(reply.status).toBe(400);
    const error = expectEnvelope(reply);
    expect(error.message).toContain(`at position ${position} (line ${line}, column ${column})`);
    expect(error).toMatchObject({ position });
  });

  it.each(['null', '[]', '"x"', '1', 'true'])('JSON that is no object: %s', async (body) => {
    const reply = await post(cluster, chat, body);
    expect(reply.status).toBe(400);
    expect(expectEnvelope(reply).message).toContain('a JSON object is needed');
  });

  it('bytes that are not UTF-8', async () => {
    const reply = await post(cluster, chat, Buffer.from([...Buffer.from('{"model":"é'), 0xff, ...Buffer.from('"}')]));
    expect(reply.status).toBe(400);
    expect(expectEnvelope(reply).message).toContain('byte 12 ');
  });

  it('other media types and encodings', async () => {
    for (const headers of [
      { 'content-type': 'text/plain' },
      { 'content-type': 'application/x-www-form-urlencoded' },
      { 'content-encoding': 'gzip' },
    ]) {
      const reply = await post(cluster, chat, good, headers as Record<string, string>);
      expect(reply.status).toBe(415);
      expectEnvelope(reply);
    }
  });

  it('bodies over the limit, declared or not', async () => {
    const large = JSON.stringify({ ...good, padding: 'x'.repeat(400_000) });
    const declared = await post(cluster, chat, large);
    expect(declared.status).toBe(413);
    expect(expectEnvelope(declared).message).toContain('the limit is 262144');
    const head = 'POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n';
    const chunk = `10000\r\n${'x'.repeat(0x10000)}\r\n`;
    const raw = await exchangeBytes(cluster.url, [head, chunk, chunk, chunk, chunk, chunk, '0\r\n\r\n']);
    expect(statusOf(raw)).toBe(413);
    await expectAlive();
  });

  it('addresses in full are answered like paths', async () => {
    for (const [target, code] of [
      [`${cluster.url}/v1/models?x=1`, 200],
      ['HTTP://elsewhere/health/live', 200],
      ['http://elsewhere', 404],
      ['*', 404],
    ] as const) {
      const raw = await exchangeBytes(cluster.url, [
        `${code === 404 ? 'OPTIONS' : 'GET'} ${target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n`,
      ]);
      expect([target, statusOf(raw)]).toEqual([target, code]);
    }
  });

  it('unknown paths and methods', async () => {
    const missing = await fetch(`${cluster.url}/v1/embeddings`, { method: 'POST' });
    expect(missing.status).toBe(404);
    const wrong = await fetch(cluster.url + chat);
    expect(wrong.status).toBe(405);
    expect(wrong.headers.get('allow')).toBe('POST');
    expect(await wrong.json()).toMatchObject({ error: { code: 'method_not_allowed' } });
    const deleted = await fetch(`${cluster.url}/v1/models`, { method: 'DELETE' });
    expect(deleted.headers.get('allow')).toBe('GET, HEAD');
    expect(await deleted.json()).toMatchObject({ error: { message: 'DELETE is not allowed at "/v1/models"; allowed: GET, HEAD' } });
    expect((await fetch(`${cluster.url}/health`, { method: 'HEAD' })).status).toBe(200);
    const expecting = await exchangeBytes(cluster.url, [
      'GET /v1/models HTTP/1.1\r\nhost: localhost\r\nexpect: cake\r\nconnection: close\r\n\r\n',
    ]);
    expect([statusOf(expecting), expecting.includes('x-request-id: ')]).toEqual([200, true]);
    expect((await fetch(`${cluster.url}/v1/models/%00%zz`)).status).toBe(404);
    const longPath = await post(cluster, `/v1/models/${'x'.repeat(8_000)}`, '');
    expect(longPath.status).toBe(405);
    expect(expectEnvelope(longPath).message.length).toBeLessThan(400);
  });
});

describe('fields', () => {
  const bad: [string, string, Record<string, unknown>, string][] = [
    ['temperature below', chat, { temperature: -1 }, 'temperature'],
    ['temperature text', chat, { temperature: '0.5' }, 'temperature'],
    ['huge temperature', chat, { temperature: 1e308 }, 'temperature'],
    ['top_p', chat, { top_p: 1.5 }, 'top_p'],
    ['n none', chat, { n: 0 }, 'n'],
    ['n many', chat, { n: 1e9 }, 'n'],
    ['n half', chat, { n: 1.5 }, 'n'],
    ['max_tokens none', chat, { max_tokens: 0 }, 'max_tokens'],
    ['max_tokens negative', plain, { max_tokens: -186 }, 'max_tokens'],
    ['max_tokens huge', chat, { max_tokens: 1e300 }, 'max_tokens'],
    ['both over the context', chat, { max_completion_tokens: 1024 }, 'max_completion_tokens'],
    ['messages over the context', chat, { messages: [{ role: 'user', content: 'whale '.repeat(2000) }] }, 'messages'],
    ['messages far over the context', chat, { messages: [{ role: 'user', content: 'x '.repeat(100_000) }] }, 'messages'],
    ['prompt over the context', plain, { prompt: Array(1024).fill(100) }, 'prompt'],
    ['prompt far over the context', plain, { prompt: 'x '.repeat(100_000) }, 'prompt'],
    ['stream_options alone', chat, { stream_options: { include_usage: true } }, 'stream_options'],
    ['stream text', chat, { stream: 'yes' }, 'stream'],
    ['top_logprobs alone', chat, { top_logprobs: 2 }, 'top_logprobs'],
    ['top_logprobs negative', chat, { logprobs: true, top_logprobs: -1 }, 'top_logprobs'],
    ['top_logprobs many', chat, { logprobs: true, top_logprobs: 21 }, 'top_logprobs'],
    ['logprobs of completions as flag', plain, { logprobs: true }, 'logprobs'],
    ['logprobs negative', plain, { logprobs: -1 }, 'logprobs'],
    ['tool_choice without tools', chat, { tool_choice: 'auto' }, 'tool_choice'],
    [
      'tool_choice names none',
      chat,
      { tools: [{ type: 'function', function: { name: 'f' } }], tool_choice: { type: 'function', function: { name: 'g' } } },
      'tool_choice',
    ],
    ['tool of another type', chat, { tools: [{ type: 'web_search' }] }, 'tools[0]'],
    ['tool without a name', chat, { tools: [{ type: 'function', function: {} }] }, 'tools[0]'],
    ['stop empty', chat, { stop: '' }, 'stop'],
    ['stop number', chat, { stop: [1] }, 'stop[0]'],
    ['stop many', chat, { stop: Array(17).fill('x') }, 'stop'],
    ['stop long', chat, { stop: 'x'.repeat(257) }, 'stop'],
    ['logit_bias key', chat, { logit_bias: { x: 1 } }, 'logit_bias'],
    ['logit_bias token', chat, { logit_bias: { 4096: 1 } }, 'logit_bias'],
    ['logit_bias value', chat, { logit_bias: { 5: 101 } }, 'logit_bias'],
    ['stop token', chat, { stop_token_ids: [4096] }, 'stop_token_ids'],
    ['seed', chat, { seed: 1.5 }, 'seed'],
    ['role', chat, { messages: [{ role: '<|im_end|>', content: 'x' }] }, 'messages[0].role'],
    ['content missing', chat, { messages: [{ role: 'user' }] }, 'messages[0].content'],
    ['content object', chat, { messages: [{ role: 'user', content: {} }] }, 'messages[0].content'],
    ['image', chat, { messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'x' } }] }] }, 'messages[0].content'],
    ['message text', chat, { messages: ['hi'] }, 'messages[0]'],
    ['messages many', chat, { messages: Array(2049).fill({ role: 'user', content: '' }) }, 'messages'],
    ['json schema', chat, { response_format: { type: 'json_schema', json_schema: {} } }, 'response_format'],
    ['guided', chat, { guided_regex: 'a*' }, 'guided_regex'],
    ['audio', chat, { modalities: ['text', 'audio'] }, 'modalities'],
    ['beam search', chat, { use_beam_search: true }, 'use_beam_search'],
    ['suffix', plain, { suffix: 'x' }, 'suffix'],
    ['best_of', plain, { best_of: 3 }, 'best_of'],
    ['prompt number', plain, { prompt: 5 }, 'prompt'],
    ['prompt empty', plain, { prompt: '' }, 'prompt'],
    ['prompt empty list', plain, { prompt: [] }, 'prompt'],
    ['prompt empty ids', plain, { prompt: [[]] }, 'prompt'],
    ['prompt token outside', plain, { prompt: [1, 4096] }, 'prompt'],
    ['prompt token half', plain, { prompt: [1, 0.5] }, 'prompt'],
    ['prompt mixed', plain, { prompt: ['x', 1] }, 'prompt'],
    ['prompts many', plain, { prompt: Array(65).fill('x') }, 'prompt'],
    ['sequences many', plain, { prompt: Array(64).fill('x'), n: 3 }, 'n'],
    ['metadata', chat, { metadata: { domain: 5 } }, 'metadata.domain'],
  ];

  it.each(bad)('%s', async (_, route, changes, param) => {
    const reply = await post(cluster, route, { ...(route === chat ? good : goodPlain), ...changes });
    expect(reply.status).toBe(400);
    const error = expectEnvelope(reply);
    expect(error.param).toBe(param);
    expect(error.message.length).toBeLessThan(400);
  });

  it.each([
    [{ tool_choice: 'auto' }, 'tool_choice is "auto" without tools'],
    [{ tools: [], tool_choice: 'required' }, 'tool_choice is "required" without tools'],
    [{ tools: [{ type: 'function', function: { name: 'f' } }], tool_choice: 'required' }, 'tool_choice is "required"; it must be'],
    [{ tools: [{ type: 'web_search' }] }, 'tools[0] has type "web_search"; "function" is needed'],
    [{ tools: [null] }, 'tools[0] has type null; '],
    [{ tools: [{ type: 'function', function: { name: 5 } }] }, 'tools[0] has the number 5 for function.name'],
    [{ modalities: ['text', 'audio'] }, 'modalities has "audio"; '],
    [{ max_completion_tokens: 1020, max_tokens: 1 }, 'tokens of prompt and max_completion_tokens 1020 make'],
  ])('names the value: %j', async (changes, text) => {
    expect(expectEnvelope(await post(cluster, chat, { ...good, ...changes })).message).toContain(text);
  });

  it('names both numbers when prompt and max_tokens do not fit', async () => {
    const error = expectEnvelope(await post(cluster, chat, { ...good, max_tokens: 1020 }));
    expect(error).toMatchObject({ code: 'context_length_exceeded', n_ctx: 1024, max_tokens: 1020 });
    expect(error.message).toMatch(/\d+ tokens of prompt and max_tokens 1020 make \d+; the context has 1024/);
  });

  it('accepts null for any optional field and unknown fields', async () => {
    const nulls = Object.fromEntries(
      [
        'temperature',
        'top_p',
        'n',
        'stop',
        'seed',
        'logit_bias',
        'stream',
        'stream_options',
        'tools',
        'tool_choice',
        'response_format',
        'logprobs',
        'top_logprobs',
        'user',
      ].map((name) => [name, null]),
    );
    expect((await post(cluster, chat, { ...good, ...nulls, frobnicate: { a: 1 } })).status).toBe(200);
    expect((await post(cluster, chat, { ...good, response_format: { type: 'text' } })).status).toBe(200);
    await until(() => cluster.log().includes('unknown field \\"frobnicate\\" was ignored'));
  });

  it('takes content in parts and a missing model', async () => {
    const parts = [
      { type: 'text', text: 'hel' },
      { type: 'text', text: 'lo' },
    ];
    const { model: _, ...rest } = good;
    const whole = await post(cluster, chat, { ...rest, temperature: 0 });
    const inParts = await post(cluster, chat, { ...rest, temperature: 0, messages: [{ role: 'user', content: parts }] });
    expect(inParts.json().choices).toEqual(whole.json().choices);
  });

  it('survives deep JSON', async () => {
    const deep = `${'['.repeat(100_000)}${']'.repeat(100_000)}`;
    for (const body of [
      deep,
      `{"model":"${model}","messages":${deep}}`,
      `{"model":"${model}","prompt":${deep}}`,
      `{"model":"${model}","messages":[{"role":"user","content":"x"}],"chat_template_kwargs":{"a":${deep}}}`,
      `{"model":"${model}","messages":[{"role":"assistant","content":null,"tool_calls":[{"type":"function","function":{"name":"f","arguments":${JSON.stringify(deep)}}}]}]}`,
      '['.repeat(200_000),
    ])
      expect((await post(cluster, chat, body)).status).toBe(400);
    for (const [route, body] of [
      [plain, `"prompt":[1,${deep}]`],
      [plain, `"prompt":[[1,${deep}]]`],
      [chat, `"stop_token_ids":[${deep}]`],
      [chat, `"stop":[${deep}]`],
      [chat, `"logit_bias":{"5":${deep}}`],
      [chat, `"response_format":{"type":${deep}}`],
      [chat, `"tool_choice":${deep}`],
      [chat, `"metadata":{"domain":${deep}}`],
      ['/detokenize', `"tokens":[${deep}]`],
    ]) {
      const rest = route === chat ? `,"messages":[{"role":"user","content":"x"}]` : '';
      const reply = await post(cluster, route, `{"model":"${model}",${body}${rest}}`);
      expect([body.slice(0, 20), reply.status]).toEqual([body.slice(0, 20), 400]);
      expect(expectEnvelope(reply).message).toMatch(/a list|without tools/);
    }
    await expectAlive();
  });

  it('never answers 5xx, whatever the body', async () => {
    const value = fc.oneof(
      fc.jsonValue(),
      fc.constantFrom(1e308, -1, 0.1, 2 ** 53, '', '\ud800', '<|im_end|>', [], {}, null, true),
      fc.string({ unit: 'binary' }),
    );
    const names = [
      'messages',
      'prompt',
      'n',
      'stop',
      'temperature',
      'top_p',
      'top_k',
      'min_p',
      'seed',
      'logprobs',
      'top_logprobs',
      'logit_bias',
      'stream',
      'stream_options',
      'tools',
      'tool_choice',
      'response_format',
      'stop_token_ids',
      'min_tokens',
      'max_completion_tokens',
      'chat_template_kwargs',
      'echo',
      'metadata',
      'content',
      'tokens',
      '__proto__',
      'constructor',
    ];
    const changes = fc.dictionary(fc.constantFrom(...names), value, { maxKeys: 4, noNullPrototype: true });
    const route = fc.constantFrom(chat, plain, '/tokenize', '/detokenize', '/v1/chat/completions/input_tokens');
    await fc.assert(
      fc.asyncProperty(route, changes, async (path, changed) => {
        const reply = await post(cluster, path, { ...good, prompt: 'x', ...changed, max_tokens: 1 });
        expect(reply.status).toBeLessThan(500);
        if (reply.status >= 400) expectEnvelope(reply);
      }),
      { numRuns: 250, seed: 20_261_123 },
    );
    await expectAlive();
  });

  it('never answers 5xx to fuzzed messages either', async () => {
    const content = fc.oneof(
      fc.string({ unit: 'binary' }),
      fc.constant(null),
      fc.array(fc.record({ type: fc.constantFrom('text', 'image_url'), text: fc.string() })),
    );
    const message = fc.record({
      role: fc.constantFrom('system', 'user', 'assistant', 'tool', 'x'),
      content,
      name: fc.option(fc.string(), { nil: undefined }),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(message, { maxLength: 4 }), async (messages) => {
        expect((await post(cluster, chat, { model, messages, max_tokens: 1 })).status).toBeLessThan(500);
      }),
      { numRuns: 100, seed: 20_261_123 },
    );
    await expectAlive();
  });
});

describe('connections', () => {
  it('that send headers too slowly are ended with 408', async () => {
    const raw = await exchangeBytes(cluster.url, ['GET /health HTTP/1.1\r\n', ...Array.from({ length: 40 }, (_, i) => `x-${i}: y\r\n`)], {
      pauseMs: 100,
      quietMs: 8_000,
    });
    expect(statusOf(raw)).toBe(408);
    expect(raw).toContain('took too long');
  });

  it('that send a body too slowly are ended', async () => {
    const head = 'POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n';
    const started = performance.now();
    const raw = await exchangeBytes(cluster.url, [head, ...Array.from({ length: 60 }, () => ' ')], { pauseMs: 100, quietMs: 8_000 });
    expect(performance.now() - started).toBeLessThan(8_000);
    expect(statusOf(raw)).toBe(408);
  });

  it('with headers over the limit get 431', async () => {
    const raw = await exchangeBytes(cluster.url, [`GET /health HTTP/1.1\r\nhost: localhost\r\nx-long: ${'y'.repeat(20_000)}\r\n\r\n`]);
    expect(statusOf(raw)).toBe(431);
    expect(raw).toContain('longer than 16384 bytes');
  });

  it('that name no host get 400 like any other mistake', async () => {
    const raw = await exchangeBytes(cluster.url, ['GET /version HTTP/1.1\r\nconnection: close\r\n\r\n']);
    expect(statusOf(raw)).toBe(400);
    expect(raw).toMatch(/x-request-id: req-[\s\S]*"message":"the host header is missing"/);
    expect(statusOf(await exchangeBytes(cluster.url, ['GET /version HTTP/1.0\r\n\r\n']))).toBe(200);
  });

  it('that speak something else get 400', async () => {
    for (const bytes of ['\x16\x03\x01\x02\x00\x01\x00', 'hello\r\n\r\n', 'GET / HTTP/9.9\r\n\r\n']) {
      const raw = await exchangeBytes(cluster.url, [bytes]);
      expect(statusOf(raw)).toBe(400);
      expect(raw).toContain('"error"');
    }
    await expectAlive();
    const metrics = await (await fetch(`${cluster.url}/metrics`)).text();
    expect(metrics).toMatch(/http_responses_total\{[^}]*route="none",status="400"\} [1-9]/);
  });

  it('that were refused are ended, also where the client never ends them', async () => {
    const { hostname, port } = new URL(cluster.url);
    const socket = connect({ host: hostname, port: Number(port), allowHalfOpen: true });
    let received = '';
    socket.on('data', (chunk) => {
      received += chunk;
    });
    socket.on('error', () => {});
    socket.write('GET /health HTTP/1.1\r\nhost: localhost\r\n');
    await once(socket, 'end');
    expect(statusOf(received)).toBe(408);
    // Whoever writes to what is no more is told so.
    await until(() => {
      if (!socket.destroyed) socket.write('x');
      return socket.destroyed;
    });
  });

  it('go on after an error, whatever of the body was still to come', async () => {
    const post = (route: string, type: string, body: string) =>
      `POST ${route} HTTP/1.1\r\nhost: localhost\r\ncontent-type: ${type}\r\ncontent-length: ${body.length}\r\n\r\n${body}`;
    const raw = await exchangeBytes(cluster.url, [
      post('/nowhere', 'application/json', 'x'.repeat(100_000)),
      post(chat, 'text/plain', 'x'.repeat(100_000)),
      // Far more than sockets hold, and than is read.
      post(plain, 'application/json', 'x'.repeat(20_000_000)),
      `POST ${plain} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n`,
      ...Array.from({ length: 16 }, () => `10000\r\n${'x'.repeat(0x10000)}\r\n`),
      '0\r\n\r\n',
      'GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n',
    ]);
    expect([...raw.matchAll(/HTTP\/1\.1 (\d+)/g)].map(([, code]) => code)).toEqual(['404', '415', '413', '413', '200']);
  });

  it('that are cut in the middle of a body leave nothing behind', async () => {
    const head = 'POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{"prom';
    await Promise.all(Array.from({ length: 20 }, () => exchangeBytes(cluster.url, [head], { quietMs: 50 })));
    await expectAlive();
  });

  it('whose client reads late go on without it, and it has all of them then', async () => {
    // About 1.5 MB: long answers with many log-probabilities. How much is held for a client, and that it is cut off beyond, is in the coordinator's own tests.
    const body = JSON.stringify({ model, prompt: 'x', max_tokens: 600, ignore_eos: true, stream: true, logprobs: 20, n: 2 });
    const head = `POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n`;
    const { hostname, port } = new URL(cluster.url);
    const socket = connect(Number(port), hostname);
    socket.pause();
    socket.write(head + body);
    await until(async () => (await status(cluster)).requests.running > 0);
    await until(async () => (await status(cluster)).requests.running === 0);
    let text = '';
    socket.on('data', (chunk) => {
      text += chunk;
    });
    socket.resume();
    await until(() => text.includes('[DONE]'));
    socket.destroy();
    await expectAlive();
  });
});
