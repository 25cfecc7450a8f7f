import type { ServerResponse } from 'node:http';
import { errorReply } from './api-error.ts';
import { PacedWriter } from './paced-writer.ts';

/** @param body JSON text */
export function sendJson(response: ServerResponse, status: number, body: string, headers: Record<string, string> = {}): void {
  if (response.headersSent || response.destroyed) return;
  const bytes = Buffer.from(body);
  response.writeHead(status, { 'content-type': 'application/json; charset=utf-8', 'content-length': bytes.length, ...headers });
  const writer = new PacedWriter(response);
  writer.write(bytes);
  writer.end();
}

/** The error envelope. Once an answer has begun, its own way of failing applies instead. */
export function sendError(response: ServerResponse, error: unknown, headers: Record<string, string> = {}): void {
  const reply = errorReply(error);
  sendJson(response, reply.status, reply.body, { ...reply.headers, ...headers });
}
