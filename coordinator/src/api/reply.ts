import type { ServerResponse } from 'node:http';
import { errorReply } from './api-error.ts';
import { PacedWriter } from './paced-writer.ts';

/** @param body JSON text, or its bytes */
export function sendJson(
  response: ServerResponse,
  status: number,
  body: string | readonly Buffer[],
  headers: Record<string, string> = {},
): void {
  if (response.headersSent || response.destroyed) return;
  const bytes = typeof body === 'string' ? [Buffer.from(body)] : body;
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
