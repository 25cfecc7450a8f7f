import { randomUUID } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { MemoryLease } from './leased-memory.ts';

/** One HTTP request and the response to it. */
export interface Exchange {
  request: IncomingMessage;
  response: ServerResponse;
  /** On every response and in every log line about it. */
  id: string;
  /** Decoded, without the query. */
  path: string;
  /** What part of a path matched a parameter, or ''. */
  parameter: string;
  tenant: string;
  /** Came through the owner's socket. */
  local: boolean;
  /** Began after the process was asked to end: it gets no text any more. */
  late: boolean;
  /** When the last byte of its body was here, performance.now; 0 until then. */
  arrivedMs: number;
  /** What its body takes, until it is turned into ids. */
  body: MemoryLease;
  /** What its response takes, until that has closed. */
  answer: MemoryLease;
  /** What the ids of its prompts take, until then. Apart from the answer: however long they are, that one may have what is free. */
  ids: MemoryLease;
  /** Aborts when the response closes: it is complete, or the client has gone. */
  closed: AbortSignal;
}

const CLIENT_ID = /^[\w.:-]{1,128}$/;

/** Aborts when the response closes. */
export function closedSignal(response: ServerResponse): AbortSignal {
  const closed = new AbortController();
  response.once('close', () => closed.abort());
  return closed.signal;
}

/** The client's id when it sent a decent one: logs of both sides can then be joined. */
export function requestId(request: IncomingMessage): string {
  const given = request.headers['x-request-id'];
  return typeof given === 'string' && CLIENT_ID.test(given) ? given : `req-${randomUUID()}`;
}
