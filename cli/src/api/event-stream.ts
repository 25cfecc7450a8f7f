import { ForeignAnswer } from './json-answer.ts';

/** One server-sent event may carry a whole completion with its log-probabilities; more than this without an end is not an answer. */
const eventCharsMax = 16 * 1024 * 1024;

/**
 * Reads server-sent events from chunks that may be cut anywhere, also inside a UTF-8 sequence (WHATWG HTML, "Server-sent events"). Only `data` fields
 * matter here: comments and other fields are skipped. `push` returns the data of the events that the chunk completed.
 */
export class EventStreamReader {
  #decoder = new TextDecoder();
  /** Of a line whose end has not come. It may be long: every character of it is looked at once, in its chunk. */
  #pending = '';
  #data: string[] = [];
  #dataChars = 0;
  /** A carriage return came last. It ended its line; a line feed right after it is no other end. */
  #returned = false;

  push(chunk: Uint8Array): string[] {
    const text = this.#decoder.decode(chunk, { stream: true });
    if (text === '') return [];
    const events: string[] = [];
    let from = this.#returned && text.startsWith('\n') ? 1 : 0;
    for (let end = lineEnd(text, from); end >= 0; end = lineEnd(text, from)) {
      this.#line(this.#pending + text.slice(from, end), events);
      this.#pending = '';
      from = end + (text.startsWith('\r\n', end) ? 2 : 1);
    }
    this.#pending += text.slice(from);
    this.#returned = text.endsWith('\r');
    if (this.#pending.length + this.#dataChars > eventCharsMax)
      throw new ForeignAnswer(`an event of the stream exceeds ${eventCharsMax} characters`);
    return events;
  }

  #line(line: string, events: string[]): void {
    if (line === '') {
      if (this.#data.length > 0) events.push(this.#data.join('\n'));
      this.#data = [];
      this.#dataChars = 0;
    } else if (line.startsWith('data:')) {
      const data = line.slice(line[5] === ' ' ? 6 : 5);
      this.#data.push(data);
      this.#dataChars += data.length + 1;
    }
  }
}

/** End of the line that begins at `from`, or -1. */
function lineEnd(text: string, from: number): number {
  for (let i = from; i < text.length; i++) {
    const char = text.charCodeAt(i);
    if (char === 0x0a || char === 0x0d) return i;
  }
  return -1;
}
