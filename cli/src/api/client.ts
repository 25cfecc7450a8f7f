import http from 'node:http';
import https from 'node:https';
import { performance } from 'node:perf_hooks';
import { CommandFailure } from '../failure.ts';
import { EventStreamReader } from './event-stream.ts';
import { jsonObject } from './json-answer.ts';

/** An answer that is not a stream: log-probabilities of a long echoed prompt are the largest. */
const bodyBytesMax = 64 * 1024 * 1024;

/** Nothing answers where the server should be. */
export class ServerGone extends CommandFailure {}

/** A failure that the server reported, with what OpenAI's error envelope carries. */
export class ApiError extends Error {
  override readonly name = 'ApiError';
  /** HTTP status, or 0 when the error arrived inside a stream that had begun with 200. */
  readonly status: number;
  readonly type: string | null;
  readonly code: string | null;
  readonly retryAfterSeconds: number | null;

  constructor(
    status: number,
    message: string,
    fields: { type?: string | null; code?: string | null; retryAfterSeconds?: number | null } = {},
  ) {
    super(message);
    this.status = status;
    this.type = fields.type ?? null;
    this.code = fields.code ?? null;
    this.retryAfterSeconds = fields.retryAfterSeconds ?? null;
  }
}

export interface ApiClientOptions {
  /** http(s)://host:port, with or without /v1. */
  url: string;
  apiKey: string | null;
  /** Longest wait for any single request, in milliseconds. */
  timeoutMs: number;
}

export interface StreamEvents<T> {
  /** Called for each event's JSON object but the closing [DONE]; `atMs` is when its bytes arrived (performance.now). */
  onData(data: T, atMs: number): void;
  signal?: AbortSignal | undefined;
}

export interface JsonReply<T> {
  body: T;
  headers: http.IncomingHttpHeaders;
}

/**
 * Talks to an OpenAI-compatible server over node:http. Lean on purpose: the load client measures servers with it, so that what it costs per event is a
 * parse and a timestamp. Every request has a connection of its own: some servers close one after a stream without saying so, and a request that is
 * written into such a connection is lost, sometimes without an error.
 */
export class ApiClient {
  /** Without a trailing slash and without /v1. */
  readonly baseUrl: string;
  readonly #apiKey: string | null;
  readonly #timeoutMs: number;
  readonly #transport: typeof http | typeof https;
  readonly #agent: http.Agent;

  constructor(options: ApiClientOptions) {
    const url = parseBaseUrl(options.url);
    this.baseUrl = url.href.replace(/\/+$/, '').replace(/\/v1$/, '');
    this.#apiKey = checkedKey(options.apiKey);
    this.#timeoutMs = options.timeoutMs;
    this.#transport = url.protocol === 'https:' ? https : http;
    this.#agent = new this.#transport.Agent({ keepAlive: false, maxSockets: Number.POSITIVE_INFINITY, noDelay: true });
  }

  /** @param bytesMax of the answer */
  async get<T>(path: string, signal?: AbortSignal, bytesMax = bodyBytesMax): Promise<JsonReply<T>> {
    return await this.#json<T>('GET', path, null, signal, bytesMax);
  }

  async post<T>(path: string, body: unknown, signal?: AbortSignal): Promise<JsonReply<T>> {
    return await this.#json<T>('POST', path, body, signal, bodyBytesMax);
  }

  /**
   * Posts and reads the answer as an event stream until [DONE]. Throws ApiError for a refusal or an error event, and a CommandFailure when the stream ends
   * without [DONE]: a cut answer is never taken for a whole one.
   */
  async stream<T extends object>(path: string, body: unknown, events: StreamEvents<T>): Promise<void> {
    await this.#call('POST', path, body, 'text/event-stream', events.signal, async (response) => {
      const contentType = response.headers['content-type'] ?? '';
      if (!contentType.startsWith('text/event-stream')) {
        response.resume();
        throw new CommandFailure(`expected an event stream from ${path}, the server sent ${contentType || 'no content type'}`);
      }
      await readEvents(response, path, events);
    });
  }

  close(): void {
    this.#agent.destroy();
  }

  async #json<T>(method: string, path: string, body: unknown, signal: AbortSignal | undefined, bytesMax: number): Promise<JsonReply<T>> {
    return await this.#call(method, path, body, 'application/json', signal, async (response) => ({
      body: jsonObject(await readBody(response, bytesMax), `${method} ${path}: the answer`) as T,
      headers: response.headers,
    }));
  }

  /**
   * Sends a request and reads its answer. However far it had come, what ends it early is said as what it is: the caller's own wish is thrown as its reason, and a
   * deadline as such.
   */
  async #call<T>(
    method: string,
    path: string,
    body: unknown,
    accept: string,
    signal: AbortSignal | undefined,
    read: (response: http.IncomingMessage) => Promise<T>,
  ): Promise<T> {
    const deadline = AbortSignal.timeout(this.#timeoutMs);
    try {
      const response = await this.#send(method, path, body, accept, signal ? AbortSignal.any([signal, deadline]) : deadline);
      if (response.statusCode !== 200) throw await refusal(response);
      return await read(response);
    } catch (error) {
      if (error instanceof ApiError) throw error;
      if (signal?.aborted) throw signal.reason;
      if (deadline.aborted)
        throw new CommandFailure(`${method} ${path}: no complete answer within ${this.#timeoutMs} ms`, { cause: error });
      throw connectionFailure(this.baseUrl, error as Error);
    }
  }

  #send(method: string, path: string, body: unknown, accept: string, signal: AbortSignal): Promise<http.IncomingMessage> {
    const payload = body === null ? null : Buffer.from(JSON.stringify(body));
    const headers: http.OutgoingHttpHeaders = { accept };
    if (payload) {
      headers['content-type'] = 'application/json';
      headers['content-length'] = payload.length;
    }
    if (this.#apiKey) headers.authorization = `Bearer ${this.#apiKey}`;
    return new Promise((resolve, reject) => {
      const request = this.#transport.request(`${this.baseUrl}${path}`, { method, headers, agent: this.#agent, signal }, resolve);
      request.on('error', reject);
      request.end(payload ?? undefined);
    });
  }
}

/** How long a server may take to end a connection whose stream is over. */
const lingerMs = 1_000;

async function readEvents<T extends object>(response: http.IncomingMessage, path: string, { onData }: StreamEvents<T>): Promise<void> {
  const reader = new EventStreamReader();
  await new Promise<void>((resolve, reject) => {
    const fail = (error: Error) => {
      response.destroy();
      reject(error);
    };
    /** The answer is whole, whatever the server still does with the connection. One that ends it itself is not cut off. */
    const finish = () => {
      resolve();
      const late = setTimeout(() => response.destroy(), lingerMs);
      response
        .removeAllListeners('data')
        .resume()
        .on('close', () => clearTimeout(late));
    };
    response.on('data', (chunk: Buffer) => {
      const atMs = performance.now();
      try {
        for (const data of reader.push(chunk)) {
          if (data === '[DONE]') return finish();
          const event = jsonObject(data, `an event of the stream from ${path}`);
          if ('error' in event && event.error) throw reportedError(0, event, data);
          onData(event as T, atMs);
        }
      } catch (error) {
        fail(error as Error);
      }
    });
    response.on('end', () => reject(new CommandFailure(`the stream from ${path} ended without [DONE]`)));
    const cut = () => reject(new CommandFailure(`the connection was closed in the middle of the stream from ${path}`));
    response.on('error', cut);
    response.on('close', cut);
  });
}

/** Said before anything is sent: the transport would name a header, and not what the user gave. */
function checkedKey(key: string | null): string | null {
  if (key !== null && !/^[\x20-\x7e]*$/.test(key))
    throw new CommandFailure('the key to be sent has characters that are no printable ASCII: a file of keys in another encoding, say', {
      status: 2,
    });
  return key;
}

/** @param option that gave it */
export function parseBaseUrl(text: string, option = '--url'): URL {
  let url: URL;
  try {
    url = new URL(text.includes('://') ? text : `http://${text}`);
  } catch {
    throw new CommandFailure(`${option} ${text}: not a URL; give something like http://127.0.0.1:8000`, { status: 2 });
  }
  if (url.protocol !== 'http:' && url.protocol !== 'https:')
    throw new CommandFailure(`${option} ${text}: the scheme must be http or https, not ${url.protocol.slice(0, -1)}`, { status: 2 });
  return url;
}

function connectionFailure(baseUrl: string, error: NodeJS.ErrnoException): Error {
  if (error.code === 'ECONNREFUSED')
    return new ServerGone(
      `nothing answers at ${baseUrl} (connection refused): start a server with \`switchyard up\`, or give another --url`,
      {
        cause: error,
      },
    );
  if (error.code === 'ENOTFOUND' || error.code === 'EAI_AGAIN')
    return new ServerGone(`the host of ${baseUrl} cannot be resolved: check --url`, { cause: error });
  // A server that ends in the middle of an answer, say.
  if (error.code === 'ECONNRESET')
    return new CommandFailure(`${baseUrl} closed the connection before its answer was complete`, { cause: error });
  // Another protocol, a certificate that nobody vouches for, a route that is not there: Node's own words for it.
  if (error.code !== undefined) return new CommandFailure(`cannot talk to ${baseUrl}: ${error.message || error.code}`, { cause: error });
  return error;
}

async function readBody(response: http.IncomingMessage, bytesMax = bodyBytesMax): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > bytesMax) {
      response.destroy();
      throw new CommandFailure(`the answer exceeds ${bytesMax} bytes`);
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

async function refusal(response: http.IncomingMessage): Promise<ApiError> {
  const text = await readBody(response);
  const status = response.statusCode ?? 0;
  const retryAfter = Number(response.headers['retry-after']);
  return reportedError(status, parsed(text), text || `HTTP status ${status}`, Number.isFinite(retryAfter) ? retryAfter : null);
}

/** By OpenAI's envelope where it is one, else in the server's own words: `text`. */
function reportedError(status: number, envelope: unknown, text: string, retryAfterSeconds: number | null = null): ApiError {
  const { message, type, code } = (envelope as { error?: Record<string, unknown> } | null)?.error ?? {};
  return new ApiError(status, typeof message === 'string' ? message : text.slice(0, 200), {
    type: typeof type === 'string' ? type : null,
    code: code == null ? null : String(code),
    retryAfterSeconds,
  });
}

/** Null where it is no JSON. */
function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
