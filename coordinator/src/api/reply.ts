import type { ServerResponse } from 'node:http';
import { errorReply } from './api-error.ts';
import type { Exchange } from './exchange.ts';
import { PacedWriter } from './paced-writer.ts';

/** A whole answer, which its client may take its time to read. @throws SwitchyardError `queue_full` when too much waits for readers already */
export function sendAnswer(
  { response, answer }: Pick<Exchange, 'response' | 'answer'>,
  body: string,
  headers: Record<string, string> = {},
): void {
  answer.hold(Buffer.byteLength(body));
  sendJson(response, 200, body, headers);
}

export function sendJson(response: ServerResponse, status: number, body: string, headers: Record<string, string> = {}): void {
  sendBytes(response, status, [Buffer.from(body)], headers);
}

/** @param bytes of JSON text, whose memory the caller accounts for */
export function sendBytes(response: ServerResponse, status: number, bytes: readonly Buffer[], headers: Record<string, string>): void {
  if (response.headersSent || response.destroyed) return;
  const length = bytes.reduce((sum, part) => sum + part.length, 0);
  response.writeHead(status, { 'content-type': 'application/json; charset=utf-8', 'content-length': length, ...headers });
  const writer = new PacedWriter(response);
  writer.write(bytes);
  writer.end();
}

/** The error envelope. Once an answer has begun, its own way of failing applies instead. */
export function sendError(response: ServerResponse, error: unknown, headers: Record<string, string> = {}): void {
  const reply = errorReply(error);
  sendJson(response, reply.status, reply.body, { ...reply.headers, ...headers });
}
