import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach } from 'vitest';

/** What the test's server does with a request, chosen by the request's prompt length. */
export type Behaviour =
  | 'answer'
  | 'refuse'
  | 'reject'
  | 'error-event'
  | 'escape'
  | 'cut'
  | 'short'
  | 'no-usage'
  | 'silent'
  | 'stall'
  | 'linger'
  | 'cut-late';

export interface CompletionServer {
  url: string;
  requests: { path: string; body: Record<string, unknown>; authorization: string | undefined }[];
  /** Most requests that were open at once. */
  mostOpen(): number;
  /** Those that are open now. */
  open(): number;
  close(): Promise<void>;
}

type Status = Record<string, unknown> | null | (() => Record<string, unknown> | null);

/** A real HTTP server that streams completions in OpenAI's format, one token a chunk, and misbehaves on demand. @param status what it says of itself; null: nothing, or no answer at all where it is asked each time */
export async function startCompletionServer(
  behave: (body: Record<string, unknown>, index: number) => Behaviour,
  status: Status = null,
): Promise<CompletionServer> {
  const requests: CompletionServer['requests'] = [];
  let open = 0;
  let mostOpen = 0;
  const server = http.createServer(async (request, response) => {
    if (request.method === 'GET' && request.url === '/v1/switchyard/status' && status !== null) {
      const told = typeof status === 'function' ? status() : status;
      response.setHeader('content-type', 'application/json');
      if (told !== null) response.end(JSON.stringify(told));
      return;
    }
    if (request.method === 'GET') {
      if (request.url !== '/v1/models') response.statusCode = 404;
      response.setHeader('content-type', 'application/json');
      response.end(JSON.stringify({ object: 'list', data: [{ id: 'tiny', object: 'model', max_model_len: 512 }] }));
      return;
    }
    mostOpen = Math.max(mostOpen, ++open);
    response.on('close', () => open--);
    let text = '';
    for await (const chunk of request) text += chunk;
    const body = JSON.parse(text) as Record<string, unknown>;
    const index = requests.push({ path: request.url ?? '', body, authorization: request.headers.authorization }) - 1;
    if (request.url === '/tokenize') {
      response.setHeader('content-type', 'application/json');
      response.end(JSON.stringify({ tokens: [...String(body.prompt ?? body.content)].map((c) => c.charCodeAt(0)) }));
      return;
    }
    const behaviour = behave(body, index);
    if (behaviour === 'refuse') {
      response.writeHead(503, { 'content-type': 'application/json', 'retry-after': '2' });
      response.end(JSON.stringify({ error: { message: 'the queue is full', type: 'overloaded_error', code: 'queue_full' } }));
      return;
    }
    if (behaviour === 'reject') {
      response.writeHead(400, { 'content-type': 'application/json' });
      response.end(JSON.stringify({ error: { message: 'the prompt is not to its taste', type: 'invalid_request_error' } }));
      return;
    }
    if (behaviour === 'answer' && body.stream !== true) {
      const usage = { prompt_tokens: Math.ceil(String(body.prompt).length / 4), completion_tokens: 1 };
      response.writeHead(200, { 'content-type': 'application/json' });
      const tokens = Array.from({ length: Number(body.max_tokens) }, (_, i) => `t${i} `);
      const logprobs = { tokens, token_logprobs: tokens.map((_, i) => -i), top_logprobs: tokens.map(() => ({})) };
      response.end(JSON.stringify({ choices: [{ index: 0, text: 't0 ', ...(body.logprobs === undefined ? {} : { logprobs }) }], usage }));
      return;
    }
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    if (behaviour === 'silent') return;
    const chat = request.url === '/v1/chat/completions';
    const tokens = behaviour === 'short' ? 2 : Number(body.max_tokens);
    for (let i = 0; i < tokens; i++) {
      if (behaviour === 'stall' && i === 1) return;
      if (behaviour === 'cut' && i === 1) return void response.destroy();
      if (behaviour === 'error-event' && i === 1) {
        response.end(
          'data: {"error":{"message":"worker n0w1 was lost","type":"unavailable_error","code":"worker_lost"}}\n\ndata: [DONE]\n\n',
        );
        return;
      }
      if (behaviour === 'escape')
        return void response.end(`data: ${JSON.stringify({ error: { message: 'no \u001b]0;renamed\u0007' } })}\n\n`);
      const last = i === tokens - 1;
      const piece = chat
        ? { delta: { content: `t${i} ` } }
        : { text: `t${i} `, logprobs: { tokens: [`t${i} `], token_logprobs: [-i], top_logprobs: [{}] } };
      response.write(`data: ${JSON.stringify({ choices: [{ index: 0, ...piece, finish_reason: last ? 'length' : null }] })}\n\n`);
      await new Promise((resolve) => setImmediate(resolve));
    }
    if (behaviour !== 'no-usage') {
      const promptTokens = Array.isArray(body.prompt) ? body.prompt.length : 1;
      response.write(`data: ${JSON.stringify({ choices: [], usage: { prompt_tokens: promptTokens, completion_tokens: tokens } })}\n\n`);
    }
    if (behaviour === 'linger' || behaviour === 'cut-late') {
      response.write('data: [DONE]\n\n');
      if (behaviour === 'cut-late') setTimeout(() => response.destroy(), 20);
      return;
    }
    response.end('data: [DONE]\n\n');
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    mostOpen: () => mostOpen,
    open: () => open,
    close: () =>
      new Promise((resolve) => {
        server.closeAllConnections();
        server.close(() => resolve());
      }),
  };
}

/** For a file of tests: `serve` starts such a server and resolves to its URL, `requests` are what it has been asked; it is closed after each test. */
export function completionServerOfTests() {
  let server: CompletionServer | null = null;
  const close = async () => {
    await server?.close();
    server = null;
  };
  afterEach(close);
  return {
    close,
    async serve(
      behave: (body: Record<string, unknown>, index: number) => Behaviour = () => 'answer',
      status: Status = null,
    ): Promise<string> {
      server = await startCompletionServer(behave, status);
      return server.url;
    },
    requests: () => server!.requests,
  };
}
