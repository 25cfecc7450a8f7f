import { ByteStream, type Bytes } from './byte-stream.ts';
import { badTrace } from './routing-trace.ts';

export type JsonEvent =
  | { kind: 'open'; bracket: '[' | '{'; offset: number }
  | { kind: 'close'; offset: number }
  | { kind: 'key'; key: string; offset: number }
  | { kind: 'value'; value: string | number | boolean | null; offset: number };

/** Deepest nesting accepted. */
const depthMax = 32;
/** What may come next; `first` beside the end of the list or object that has just begun. */
type Due = 'value' | 'first value' | 'key' | 'first key' | 'colon' | 'comma';

/** Longest string or number accepted. */
const scalarBytesMax = 1024 * 1024;

/**
 * JSON (RFC 8259) as a stream of events, so that a dump larger than memory can be read. Escapes in strings are resolved by JSON.parse of that string alone.
 * Memory: one chunk and one scalar. Events come by the chunk, to be gone through before the next is asked for: waiting for each would take longer than reading it.
 */
export async function* jsonEvents(bytes: Bytes, source: string): AsyncGenerator<Iterable<JsonEvent>> {
  const stream = new ByteStream(bytes, source);
  const nesting: ('[' | '{')[] = [];
  let due: Due = 'value';
  let scalar = '';
  let inString = false;
  let escaped = false;
  let started = false;
  const finish = (text: string, offset: number): JsonEvent => {
    try {
      return { kind: 'value', value: JSON.parse(text), offset };
    } catch {
      throw badTrace(source, `byte ${offset}`, `not JSON: ${text.slice(0, 40)}`);
    }
  };
  // A list that has lost something may still be as long as the others.
  const take = (allowed: boolean, byte: number, offset: number): void => {
    if (!allowed) throw badTrace(source, `byte ${offset}`, `unexpected ${String.fromCharCode(byte)}`);
  };
  const isDue = (what: 'value' | 'key'): boolean => due === what || due === `first ${what}`;
  // Several values may follow one another, as records are appended.
  const afterValue = (): Due => (nesting.length === 0 ? 'value' : 'comma');
  /** @param base offset of the chunk's first byte */
  function* eventsOf(chunk: Uint8Array, base: number): Generator<JsonEvent> {
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
          const isKey = isDue('key');
          due = isKey ? 'colon' : afterValue();
          yield isKey ? { kind: 'key', key: String((event as { value: unknown }).value), offset } : event;
        }
        continue;
      }
      const plain = byte !== 0x20 && byte !== 0x0a && byte !== 0x0d && byte !== 0x09;
      const structural =
        byte === 0x5b || byte === 0x7b || byte === 0x5d || byte === 0x7d || byte === 0x2c || byte === 0x3a || byte === 0x22;
      if (plain && !structural) {
        if (scalar === '') take(isDue('value'), byte, offset);
        scalar += String.fromCharCode(byte);
        if (scalar.length > 64) throw badTrace(source, `byte ${offset}`, `not JSON: ${scalar.slice(0, 40)}`);
        continue;
      }
      if (scalar !== '') {
        due = afterValue();
        yield finish(scalar, offset);
        scalar = '';
      }
      if (byte === 0x22) {
        take(isDue('value') || isDue('key'), byte, offset);
        inString = true;
        scalar = '"';
      } else if (byte === 0x5b || byte === 0x7b) {
        take(isDue('value'), byte, offset);
        const bracket = byte === 0x5b ? '[' : '{';
        nesting.push(bracket);
        started = true;
        if (nesting.length > depthMax) throw badTrace(source, `byte ${offset}`, `nested deeper than ${depthMax}`);
        due = bracket === '{' ? 'first key' : 'first value';
        yield { kind: 'open', bracket, offset };
      } else if (byte === 0x5d || byte === 0x7d) {
        const ends = due === 'comma' || due === (byte === 0x5d ? 'first value' : 'first key');
        take(ends && nesting.pop() === (byte === 0x5d ? '[' : '{'), byte, offset);
        due = afterValue();
        yield { kind: 'close', offset };
      } else if (byte === 0x2c) {
        take(due === 'comma', byte, offset);
        due = nesting.at(-1) === '{' ? 'key' : 'value';
      } else if (byte === 0x3a) {
        take(due === 'colon', byte, offset);
        due = 'value';
      }
    }
  }
  for (;;) {
    const base = stream.offset;
    const chunk = await stream.upTo(65_536);
    if (chunk.length === 0) break;
    yield eventsOf(chunk, base);
  }
  if (scalar !== '' && !inString) yield [finish(scalar, stream.offset)];
  if (inString || nesting.length > 0) throw badTrace(source, `byte ${stream.offset}`, 'the file ends inside a value');
  if (!started && scalar === '') throw badTrace(source, 'byte 0', 'the file is empty');
}
