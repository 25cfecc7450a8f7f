import { ByteStream, type Bytes } from './byte-stream.ts';
import { badTrace } from './routing-trace.ts';

export type JsonEvent =
  | { kind: 'open'; bracket: '[' | '{'; offset: number }
  | { kind: 'close'; offset: number }
  | { kind: 'key'; key: string; offset: number }
  | { kind: 'value'; value: string | number | boolean | null; offset: number };

/** Deepest nesting accepted. */
const depthMax = 32;
/** Longest string or number accepted. */
const scalarBytesMax = 1024 * 1024;

/**
 * JSON (RFC 8259) as a stream of events, so that a dump larger than memory can be read. Escapes in strings are resolved by JSON.parse of that string alone.
 * Memory: one chunk and one scalar.
 */
export async function* jsonEvents(bytes: Bytes, source: string): AsyncGenerator<JsonEvent> {
  const stream = new ByteStream(bytes, source);
  const nesting: ('[' | '{')[] = [];
  let expectKey = false;
  let scalar = '';
  let inString = false;
  let escaped = false;
  let started = false;
  let base = 0;
  const finish = (text: string, offset: number): JsonEvent => {
    try {
      return { kind: 'value', value: JSON.parse(text), offset };
    } catch {
      throw badTrace(source, `byte ${offset}`, `not JSON: ${text.slice(0, 40)}`);
    }
  };
  for (;;) {
    base = stream.offset;
    const chunk = await stream.upTo(65_536);
    if (chunk.length === 0) break;
    // Latin-1 keeps one character per byte, so offsets stay true and a string's bytes can be put back together.
    for (let i = 0; i < chunk.length; i++) {
      const byte = chunk[i];
      const offset = base + i;
      if (inString) {
        scalar += String.fromCharCode(byte);
        if (scalar.length > scalarBytesMax) throw badTrace(source, `byte ${offset}`, `a string is longer than ${scalarBytesMax} bytes`);
        if (escaped) escaped = false;
        else if (byte === 0x5c) escaped = true;
        else if (byte === 0x22) {
          inString = false;
          const event = finish(new TextDecoder().decode(Uint8Array.from(scalar, (c) => c.charCodeAt(0))), offset);
          scalar = '';
          if (expectKey && nesting.at(-1) === '{') {
            expectKey = false;
            yield { kind: 'key', key: String((event as { value: unknown }).value), offset };
          } else yield event;
        }
        continue;
      }
      const plain = byte !== 0x20 && byte !== 0x0a && byte !== 0x0d && byte !== 0x09;
      const structural =
        byte === 0x5b || byte === 0x7b || byte === 0x5d || byte === 0x7d || byte === 0x2c || byte === 0x3a || byte === 0x22;
      if (plain && !structural) {
        scalar += String.fromCharCode(byte);
        if (scalar.length > 64) throw badTrace(source, `byte ${offset}`, `not JSON: ${scalar.slice(0, 40)}`);
        continue;
      }
      if (scalar !== '') {
        yield finish(scalar, offset);
        scalar = '';
      }
      if (byte === 0x22) {
        inString = true;
        scalar = '"';
      } else if (byte === 0x5b || byte === 0x7b) {
        const bracket = byte === 0x5b ? '[' : '{';
        nesting.push(bracket);
        started = true;
        if (nesting.length > depthMax) throw badTrace(source, `byte ${offset}`, `nested deeper than ${depthMax}`);
        expectKey = bracket === '{';
        yield { kind: 'open', bracket, offset };
      } else if (byte === 0x5d || byte === 0x7d) {
        if (nesting.pop() !== (byte === 0x5d ? '[' : '{'))
          throw badTrace(source, `byte ${offset}`, `unexpected ${String.fromCharCode(byte)}`);
        expectKey = false;
        yield { kind: 'close', offset };
      } else if (byte === 0x2c) expectKey = nesting.at(-1) === '{';
    }
  }
  if (scalar !== '' && !inString) yield finish(scalar, stream.offset);
  if (inString || nesting.length > 0) throw badTrace(source, `byte ${stream.offset}`, 'the file ends inside a value');
  if (!started && scalar === '') throw badTrace(source, 'byte 0', 'the file is empty');
}
