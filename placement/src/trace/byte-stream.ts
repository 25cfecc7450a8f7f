import { badTrace } from './routing-trace.ts';

export type Bytes = AsyncIterable<Uint8Array>;

/** Longest line of a text format: one JSONL record or header. */
const lineBytesMax = 16 * 1024 * 1024;

const decoder = new TextDecoder();

/** Reads exact counts and lines from chunks of any size. Holds one chunk and what is asked for. */
export class ByteStream {
  private readonly chunks: AsyncIterator<Uint8Array>;
  private readonly source: string;
  private held: Uint8Array = new Uint8Array(0);
  private at = 0;
  /** Bytes handed out so far: the place named in errors. */
  offset = 0;

  constructor(bytes: Bytes, source: string) {
    this.chunks = bytes[Symbol.asyncIterator]();
    this.source = source;
  }

  /** Up to `count` bytes: fewer only at the end. */
  async upTo(count: number): Promise<Uint8Array> {
    if (this.held.length - this.at < count) await this.fill(count);
    const taken = this.held.subarray(this.at, Math.min(this.at + count, this.held.length));
    this.at += taken.length;
    this.offset += taken.length;
    return taken;
  }

  /** Exactly `count` bytes, or null at a clean end. */
  async exactly(count: number): Promise<Uint8Array | null> {
    const start = this.offset;
    const taken = await this.upTo(count);
    if (taken.length === 0) return null;
    if (taken.length < count)
      throw badTrace(this.source, `byte ${start}`, `the file ends ${count - taken.length} bytes inside a record of ${count}`);
    return taken;
  }

  /** The next line without its newline, or null at the end. */
  async line(): Promise<string | null> {
    let searched = 0;
    for (;;) {
      const end = this.held.indexOf(10, this.at + searched);
      if (end >= 0) {
        const text = decoder.decode(this.held.subarray(this.at, end));
        this.offset += end + 1 - this.at;
        this.at = end + 1;
        return text;
      }
      searched = this.held.length - this.at;
      if (searched > lineBytesMax) throw badTrace(this.source, `byte ${this.offset}`, `a line is longer than ${lineBytesMax} bytes`);
      if (await this.fill(searched + 1)) continue;
      if (searched === 0) return null;
      const text = decoder.decode(this.held.subarray(this.at));
      this.offset += searched;
      this.at = this.held.length;
      return text;
    }
  }

  /** Makes at least `count` bytes available if there are that many; false at the end. */
  private async fill(count: number): Promise<boolean> {
    const parts = [this.held.subarray(this.at)];
    let have = parts[0].length;
    while (have < count) {
      const { value, done } = await this.chunks.next();
      if (done) break;
      parts.push(value);
      have += value.length;
    }
    const joined = parts.length === 1 ? parts[0].slice() : new Uint8Array(have);
    if (parts.length > 1) {
      let at = 0;
      for (const part of parts) {
        joined.set(part, at);
        at += part.length;
      }
    }
    this.held = joined;
    this.at = 0;
    return have >= count;
  }
}
