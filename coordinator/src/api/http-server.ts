import { chmodSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse, STATUS_CODES } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { isMainThread } from 'node:worker_threads';
import { type ErrorCode, isLoopback, removeStaleSocket, SwitchyardError } from '@switchyard/proto';
import { bounds } from '../bounds.ts';
import { healthQuestion } from '../health/health-counters.ts';
import { checkAdmin, isOperator, traceRoute } from './admin-routes.ts';
import { AllowedHosts } from './allowed-hosts.ts';
import { errorReply } from './api-error.ts';
import { closedSignal, type Exchange, requestId } from './exchange.ts';
import { quoted } from './fields.ts';
import { chatCompletions, chatInputTokens, completions } from './generation.ts';
import { models, oneModel } from './model-routes.ts';
import { sendAnswer, sendError, sendJson } from './reply.ts';
import type { Service } from './service.ts';
import { detokenize, tokenize } from './token-routes.ts';

type Json = Record<string, unknown>;

interface Route {
  method: 'GET' | 'POST';
  /** A path; one that ends with "/*" takes anything after it as its parameter. */
  path: string;
  /** Who may: anyone, holders of a key, or the operator. */
  access: 'open' | 'key' | 'admin';
  /** Makes the body of a plain 200, or writes the response itself. */
  reply:
    | { body: (service: Service, exchange: Exchange) => Json | Promise<Json> }
    | { write: (service: Service, exchange: Exchange) => void | Promise<void> };
}

/** The whole surface. HEAD is answered like GET. */
const routes: readonly Route[] = [
  { method: 'POST', path: '/v1/chat/completions', access: 'key', reply: { write: chatCompletions } },
  { method: 'POST', path: '/v1/completions', access: 'key', reply: { write: completions } },
  { method: 'POST', path: '/v1/chat/completions/input_tokens', access: 'key', reply: { body: chatInputTokens } },
  { method: 'POST', path: '/tokenize', access: 'key', reply: { body: tokenize } },
  { method: 'POST', path: '/detokenize', access: 'key', reply: { body: detokenize } },
  { method: 'GET', path: '/v1/models', access: 'key', reply: { body: models } },
  { method: 'GET', path: '/v1/models/*', access: 'key', reply: { body: oneModel } },
  { method: 'GET', path: '/health', access: 'open', reply: { write: health } },
  { method: 'GET', path: '/health/live', access: 'open', reply: { write: health } },
  { method: 'GET', path: '/health/ready', access: 'open', reply: { write: health } },
  { method: 'GET', path: '/health/progress', access: 'open', reply: { write: health } },
  { method: 'GET', path: '/metrics', access: 'open', reply: { write: metrics } },
  { method: 'GET', path: '/version', access: 'open', reply: { body: ({ version }) => ({ version }) } },
  { method: 'GET', path: '/v1/switchyard/status', access: 'admin', reply: { body: (service) => service.status() } },
  { method: 'POST', path: '/v1/switchyard/trace', access: 'admin', reply: { body: traceRoute } },
];

export interface HttpListener {
  /** Port, or 0 on a socket. */
  readonly port: number;
  /** Stops listening, and ends connections on which nothing runs. */
  stop(): void;
  /** Ends all connections. */
  close(): Promise<void>;
}

/**
 * @param where port and host, or the path of the owner's socket
 * @throws SwitchyardError `link_closed` naming the option
 */
export async function listenHttp(service: Service, where: { host: string; port: number } | { socket: string }): Promise<HttpListener> {
  const local = 'socket' in where;
  const { headersTimeoutMs, requestTimeoutMs } = service.config;
  const server = createServer({
    maxHeaderSize: bounds.headerBytesMax,
    headersTimeout: Math.min(headersTimeoutMs, requestTimeoutMs),
    requestTimeout: requestTimeoutMs,
    connectionsCheckingInterval: Math.min(1_000, headersTimeoutMs),
    keepAliveTimeout: bounds.keepAliveMs,
    noDelay: true,
    // Node's own refusal has neither a body nor an id.
    requireHostHeader: false,
  });
  server.maxConnections = bounds.connectionsMax;
  let allowedHosts: AllowedHosts | null = null;
  server.on('request', (request, response) => {
    // A proxy may name the whole address (RFC 9112, 3.2.2).
    const [rawPath] = (request.url ?? '/').replace(/^https?:\/\/[^/?]*/i, '').split('?');
    const exchange: Exchange = {
      request,
      response,
      id: requestId(request),
      path: decodedPath(rawPath),
      parameter: '',
      tenant: '',
      local,
      late: service.draining,
      arrivedMs: 0,
      body: service.bodies.lease('the bytes and values of its body'),
      answer: service.answers.lease(undefined, () => exchange.tenant),
      ids: service.answers.lease("prompts' ids", () => exchange.tenant),
      closed: closedSignal(response),
    };
    response.once('close', () => {
      exchange.answer.end();
      exchange.ids.end();
    });
    closeWithConnection(request, response);
    response.setHeader('x-request-id', exchange.id);
    service.exchanges.add(response);
    void serve(service, exchange, allowedHosts);
  });
  // An expectation that we do not know is no reason to refuse (RFC 9110, 10.1.1); Node would, without a body.
  server.on('checkExpectation', (request, response) => server.emit('request', request, response));
  server.on('clientError', (error: NodeJS.ErrnoException, socket: Socket) => refuseBytes(service, error, socket));
  for (const { path } of routes) service.metrics.requests.expectRoute(path);
  if (local) await removeStaleSocket(where.socket);
  await listening(server, where);
  if (local) chmodSync(where.socket, 0o600);
  const address = server.address();
  if (!local && service.apiKeys === null && isLoopback((address as AddressInfo).address))
    allowedHosts = new AllowedHosts([where.host, ...service.config.allowedHosts.split(',')]);
  return {
    port: typeof address === 'object' && address !== null ? (address as AddressInfo).port : 0,
    stop: () => {
      server.close();
      server.closeIdleConnections();
    },
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

/** Of pipelined requests Node tells the first one's response alone that the connection has closed; the others would wait for it for ever. */
function closeWithConnection({ socket }: IncomingMessage, response: ServerResponse): void {
  if (response.socket !== null) return;
  const close = () => {
    response.destroy();
    response.emit('close');
  };
  socket.setMaxListeners(0).once('close', close);
  response.once('socket', () => socket.off('close', close));
}

async function serve(service: Service, exchange: Exchange, allowedHosts: AllowedHosts | null): Promise<void> {
  const { response } = exchange;
  let route: Route | null = null;
  response.on('finish', () => service.metrics.requests.onResponse(route?.path ?? 'none', response.statusCode));
  try {
    checkHost(exchange);
    allowedHosts?.check(exchange.request.headers);
    route = findRoute(exchange);
    if (service.draining) response.setHeader('connection', 'close');
    admit(service, exchange, route);
    if ('write' in route.reply) await route.reply.write(service, exchange);
    else sendAnswer(exchange, JSON.stringify(await route.reply.body(service, exchange)));
  } catch (error) {
    fail(service, exchange, error);
  } finally {
    exchange.body.end();
  }
}

/** RFC 9112, 3.2. */
function checkHost({ request: { httpVersion, headers } }: Exchange): void {
  if (httpVersion === '1.1' && headers.host === undefined) throw new SwitchyardError('invalid_request', 'the host header is missing');
}

function findRoute(exchange: Exchange): Route {
  const { path, request } = exchange;
  const method = request.method === 'HEAD' ? 'GET' : request.method;
  const matching = routes.filter((route) => route.path === path || (route.path.endsWith('/*') && path.startsWith(route.path.slice(0, -1))));
  const route = matching.find((candidate) => candidate.method === method);
  if (route !== undefined) {
    if (route.path.endsWith('/*')) exchange.parameter = path.slice(route.path.length - 1);
    return route;
  }
  if (matching.length === 0) throw new SwitchyardError('not_found', `there is nothing at ${quoted(path)}`);
  const allowed = matching.map((candidate) => (candidate.method === 'GET' ? 'GET, HEAD' : candidate.method)).join(', ');
  exchange.response.setHeader('allow', allowed);
  throw new SwitchyardError('method_not_allowed', `${request.method} is not allowed at ${quoted(path)}; allowed: ${allowed}`);
}

function admit(service: Service, exchange: Exchange, { access, path }: Route): void {
  if (access === 'admin') checkAdmin(service, exchange, path === '/v1/switchyard/status');
  if (access !== 'key' || service.apiKeys === null || exchange.local) return;
  const tenant = service.apiKeys.tenantOf(exchange.request.headers.authorization);
  if (tenant === null) throw new SwitchyardError('unauthorized', 'a valid API key is needed: Authorization: Bearer KEY');
  exchange.tenant = tenant;
}

function fail(service: Service, { response, id, path }: Exchange, error: unknown): void {
  const { code, status } = errorReply(error);
  service.metrics.requests.onError(code);
  const known = error instanceof SwitchyardError;
  if (status === 500)
    service.log.error({ request: id, path, ...(known ? { code, message: error.message } : { err: error }) }, 'request failed');
  // What is wrong with a field may quote it, and it may be the prompt.
  else service.log.debug({ request: id, path, code, param: known ? error.param : null }, 'request refused');
  // Node discards what is left of the body. To close instead would reset the connection, and with it what a client that still sends has yet to read.
  sendError(response, error);
}

/** Bytes that are not HTTP, too many of them, or too slow. */
function refuseBytes({ metrics }: Service, error: NodeJS.ErrnoException, socket: Socket): void {
  const answering = (socket as Socket & { _httpMessage?: { headersSent: boolean } })._httpMessage?.headersSent === true;
  if (!socket.writable || answering || error.code === 'ECONNRESET') {
    socket.destroy();
    return;
  }
  const [status, code, message] = refusalOf(error.code);
  metrics.requests.onError(code);
  metrics.requests.onResponse('none', status);
  const { body } = errorReply(new SwitchyardError(code, message));
  socket.end(
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\ncontent-type: application/json; charset=utf-8\r\ncontent-length: ${Buffer.byteLength(body)}\r\n` +
      `x-request-id: req-none\r\nconnection: close\r\n\r\n${body}`,
  );
  setTimeout(() => socket.destroy(), bounds.refusedSocketMs).unref();
}

function refusalOf(code: string | undefined): [status: number, code: ErrorCode, message: string] {
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT') return [408, 'invalid_request', 'the request took too long to arrive'];
  if (code === 'HPE_HEADER_OVERFLOW') return [431, 'invalid_request', `the headers are longer than ${bounds.headerBytesMax} bytes`];
  return [400, 'invalid_request', `this is not HTTP: ${code ?? 'unreadable'}`];
}

function decodedPath(path: string): string {
  try {
    return decodeURIComponent(path);
  } catch {
    return path;
  }
}

async function listening(server: Server, where: { host: string; port: number } | { socket: string }): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      const option = 'socket' in where ? `--admin-socket ${where.socket}` : `--listen ${where.host}:${where.port}`;
      const why = error.code === 'EADDRINUSE' ? 'something else listens there already' : error.message;
      reject(new SwitchyardError('link_closed', `${option}: ${why}`, { cause: error }));
    });
    if ('socket' in where) privately(() => server.listen(where.socket, resolve));
    else server.listen(where.port, where.host, resolve);
  });
}

/** What is made is its owner's alone from the beginning: made first and then told so, it would be open to others in between. */
function privately(make: () => void): void {
  // A thread cannot set the mask, which is the process's.
  const mask = isMainThread ? process.umask(0o177) : null;
  try {
    make();
  } finally {
    if (mask !== null) process.umask(mask);
  }
}

function health(service: Service, { path, response }: Exchange): void {
  const { status, body } = service.health.answer(healthQuestion(path)!);
  sendJson(response, status, JSON.stringify(body), status === 503 ? { 'retry-after': String(bounds.retryAfterSeconds.not_ready) } : {});
}

/** Which experts were used tells of prompts, where few requests run: with keys it is the operator's alone. */
async function metrics(service: Service, exchange: Exchange): Promise<void> {
  const subject = service.metrics;
  const text = await subject.text(service.apiKeys === null || isOperator(service, exchange));
  sendAnswer(exchange, text, { 'content-type': subject.contentType });
}
