import type { IncomingMessage } from 'node:http';
import { SwitchyardError } from '@switchyard/proto';
import { DetailedError } from '../detailed-error.ts';
import type { Exchange } from './exchange.ts';
import { jsonValueBytes } from './json-memory.ts';
import { jsonErrorPosition } from './json-position.ts';
import type { MemoryLease } from './leased-memory.ts';

/**
 * Reads a request's body as a JSON object.
 *
 * @throws SwitchyardError `unsupported_media_type`, `body_too_large` (with both sizes), `queue_full` when there is no room for it and its values, `invalid_request` with the position
 * of what is wrong
 */
export async function readJsonBody(
  { request, body }: Pick<Exchange, 'request' | 'body'>,
  bytesMax: number,
): Promise<Record<string, unknown>> {
  checkContentType(request);
  const declared = Number(request.headers['content-length'] ?? 0);
  if (declared > bytesMax) throw tooLarge(declared, bytesMax);
  const bytes = await readBytes(request, body, bytesMax);
  holdMore(body, jsonValueBytes(bytes));
  return parseObject(decode(bytes));
}

/** Before JSON is parsed that a body has as a string: its values are many times as large, too. @param param the string's field. @throws SwitchyardError `body_too_large`, `queue_full` */
export function holdParsed(text: string, body: MemoryLease, param: string): void {
  const json = Buffer.from(text);
  holdMore(body, json.length + jsonValueBytes(json), param);
}

/** What is made of a body must have room before it is made. */
function holdMore(body: MemoryLease, more: number, param: string | null = null): void {
  const bytes = body.bytes + more;
  const { bytesMax } = body;
  if (bytes > bytesMax) {
    const why = `the body with the values of its JSON${param === null ? '' : ` and of ${param}`} takes ${bytes} bytes; the limit is ${bytesMax}`;
    throw new DetailedError('body_too_large', why, param, { limit_bytes: bytesMax });
  }
  body.hold(bytes);
}

/** What comes beyond a limit is discarded as it arrives, so that the client can read why; the request's own time limit ends it. */
async function readBytes(request: IncomingMessage, body: MemoryLease, bytesMax: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  let refused = false;
  await new Promise<void>((resolve, reject) => {
    request.on('data', (chunk: Buffer) => {
      if (refused) return;
      bytes += chunk.length;
      try {
        if (bytes > bytesMax) throw tooLarge(bytes, bytesMax);
        body.hold(bytes);
        chunks.push(chunk);
      } catch (error) {
        refused = true;
        chunks.length = 0;
        reject(error);
      }
    });
    request.on('end', resolve);
    request.on('error', (error) => reject(new SwitchyardError('cancelled', `the request was cut off: ${error.message}`)));
    request.on('close', () => reject(new SwitchyardError('cancelled', 'the request was cut off')));
  });
  // The request and its listeners live until the last byte of the answer is written: they must not keep the body.
  return chunks.length === 1 ? chunks.pop()! : Buffer.concat(chunks.splice(0));
}

function checkContentType(request: IncomingMessage): void {
  const type = (request.headers['content-type'] ?? '').split(';')[0].trim().toLowerCase();
  if (type !== 'application/json' && !type.endsWith('+json'))
    throw new SwitchyardError('unsupported_media_type', `content-type is ${JSON.stringify(type)}; application/json is needed`, {
      param: 'content-type',
    });
  const encoding = request.headers['content-encoding'] ?? 'identity';
  if (encoding !== 'identity')
    throw new SwitchyardError('unsupported_media_type', `content-encoding is ${JSON.stringify(encoding)}; bodies must not be compressed`, {
      param: 'content-encoding',
    });
}

function tooLarge(bytes: number, bytesMax: number): SwitchyardError {
  return new DetailedError('body_too_large', `the body has ${bytes} bytes or more; the limit is ${bytesMax}`, null, {
    limit_bytes: bytesMax,
  });
}

const utf8 = new TextDecoder('utf-8', { fatal: true });

function decode(bytes: Buffer): string {
  try {
    return utf8.decode(bytes);
  } catch {
    throw new SwitchyardError('invalid_request', `the body is not UTF-8: byte ${firstBadByte(bytes)} cannot stand there`);
  }
}

/** Decoding turns the first bad sequence into U+FFFD; what comes before it has as many bytes as it had. */
function firstBadByte(bytes: Buffer): number {
  const text = bytes.toString('utf8');
  let offset = 0;
  let from = 0;
  for (let at = text.indexOf('\ufffd'); at >= 0; at = text.indexOf('\ufffd', from + 1)) {
    offset += Buffer.byteLength(text.slice(from, at));
    from = at;
    // It may have been written out.
    if (bytes[offset] !== 0xef || bytes[offset + 1] !== 0xbf || bytes[offset + 2] !== 0xbd) return offset;
  }
  return bytes.length;
}

function parseObject(text: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw notJson(text);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new SwitchyardError(
      'invalid_request',
      `the body is ${value === null ? 'null' : Array.isArray(value) ? 'an array' : `a ${typeof value}`}; a JSON object is needed`,
    );
  return value as Record<string, unknown>;
}

function notJson(text: string): SwitchyardError {
  const position = jsonErrorPosition(text);
  const before = text.slice(0, position).split('\n');
  const what =
    position >= text.length ? 'it ends too early' : `unexpected ${JSON.stringify(String.fromCodePoint(text.codePointAt(position)!))}`;
  return new DetailedError(
    'invalid_request',
    `the body is not JSON: ${what} at position ${position} (line ${before.length}, column ${before.at(-1)!.length + 1})`,
    null,
    { position },
  );
}
