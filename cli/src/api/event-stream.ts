import { ForeignAnswer } from './json-answer.ts';

/** One server-sent event may carry a whole completion with its log-probabilities; more than this without an end is not an answer. */
const pendingCharsMax = 16 * 1024 * 1024;

/**
 * Reads server-sent events from chunks that may be cut anywhere, also inside a UTF-8 sequence (WHATWG HTML, "Server-sent events"). Only `data` fields
 * matter here: comments and other fields are skipped. `push` returns the data of the events that the chunk completed.
 */
export class EventStreamReader {
  #decoder = new TextDecoder();
  #pending = '';
  #data: string[] = [];

  push(chunk: Uint8Array): string[] {
    this.#pending += this.#decoder.decode(chunk, { stream: true });
    const events: string[] = [];
    let from = 0;
    for (let end = this.#lineEnd(from); end >= 0; end = this.#lineEnd(from)) {
      this.#line(this.#pending.slice(from, end), events);
      const crlf = this.#pending[end] === '\r' && this.#pending[end + 1] === '\n';
      from = end + (crlf ? 2 : 1);
    }
    this.#pending = this.#pending.slice(from);
    if (this.#pending.length > pendingCharsMax) throw new ForeignAnswer(`a line of the event stream exceeds ${pendingCharsMax} characters`);
    return events;
  }

  /** End of the line that begins at `from`, or -1. A carriage return at the very end waits for the chunk that may bring its line feed. */
  #lineEnd(from: number): number {
    for (let i = from; i < this.#pending.length; i++) {
      const char = this.#pending.charCodeAt(i);
      if (char === 0x0a) return i;
      if (char === 0x0d) return i + 1 < this.#pending.length ? i : -1;
    }
    return -1;
  }

  #line(line: string, events: string[]): void {
    if (line === '') {
      if (this.#data.length > 0) events.push(this.#data.join('\n'));
      this.#data = [];
    } else if (line.startsWith('data:')) {
      this.#data.push(line.slice(line[5] === ' ' ? 6 : 5));
    }
  }
}
