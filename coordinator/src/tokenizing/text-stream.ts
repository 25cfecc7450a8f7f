import type { TokenBytes } from './token-bytes.ts';

/**
 * Text of tokens as they come, whole characters only: bytes that may be the beginning of one are held until it is complete. Bytes that cannot become one turn
 * into U+FFFD, maximal subparts each, as the Encoding standard has it: joined, the pieces are what decoding all bytes at once gives.
 */
export class TextStream {
  readonly #pieces: TokenPieces;
  #held: Uint8Array = EMPTY;

  constructor(pieces: TokenPieces) {
    this.#pieces = pieces;
  }

  push(token: number): string {
    if (this.#held.length === 0) {
      const text = this.#pieces.wholeText(token);
      if (text !== null) return text;
    }
    return this.#decode(this.#pieces.bytes(token));
  }

  /** What is left at the end: U+FFFD for an unfinished character. */
  end(): string {
    const rest = decoder.decode(this.#held);
    this.#held = EMPTY;
    return rest;
  }

  #decode(bytes: Uint8Array): string {
    const all = new Uint8Array(this.#held.length + bytes.length);
    all.set(this.#held);
    all.set(bytes, this.#held.length);
    const whole = all.length - unfinishedBytes(all);
    this.#held = all.subarray(whole);
    return decoder.decode(all.subarray(0, whole));
  }
}

/** Texts of single tokens, made once and shared by all streams. */
export class TokenPieces {
  readonly #bytes: TokenBytes;
  readonly #whole: (string | null | undefined)[];
  readonly #alone: (string | undefined)[];

  constructor(bytes: TokenBytes) {
    this.#bytes = bytes;
    this.#whole = new Array(bytes.vocab);
    this.#alone = new Array(bytes.vocab);
  }

  bytes(token: number): Uint8Array {
    return this.#bytes.of(token);
  }

  /** The token's text when its bytes are whole characters, else null. */
  wholeText(token: number): string | null {
    let text = this.#whole[token];
    if (text === undefined) {
      text = strictText(this.#bytes.of(token));
      if (token < this.#whole.length) this.#whole[token] = text;
    }
    return text;
  }

  /** What the token reads as by itself: a half character is U+FFFD. Text of several tokens is not made of it. */
  textAlone(token: number): string {
    let text = this.#alone[token];
    if (text === undefined) {
      text = decoder.decode(this.#bytes.of(token));
      if (token < this.#alone.length) this.#alone[token] = text;
    }
    return text;
  }

  /** All tokens at once: a million half characters, one by one, would take seconds. */
  text(tokens: Iterable<number>): string {
    return decoder.decode(Buffer.concat(Array.from(tokens, (token) => this.bytes(token))));
  }
}

const EMPTY = new Uint8Array(0);
const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
const strictDecoder = new TextDecoder('utf-8', { ignoreBOM: true, fatal: true });

function strictText(bytes: Uint8Array): string | null {
  try {
    return strictDecoder.decode(bytes);
  } catch {
    return null;
  }
}

/** Bytes at the end that may yet become a character: a lead byte and the valid continuation bytes after it (Unicode table 3-7). */
function unfinishedBytes(bytes: Uint8Array): number {
  const { length } = bytes;
  for (let back = 1; back <= Math.min(3, length); back++) {
    const lead = bytes[length - back];
    if (lead >= 0x80 && lead < 0xc0) continue;
    const needed = lead >= 0xc2 && lead < 0xe0 ? 2 : lead >= 0xe0 && lead < 0xf0 ? 3 : lead >= 0xf0 && lead < 0xf5 ? 4 : 0;
    const valid = back === 1 || secondByteFits(lead, bytes[length - back + 1]);
    return back < needed && valid ? back : 0;
  }
  return 0;
}

function secondByteFits(lead: number, second: number): boolean {
  if (lead === 0xe0) return second >= 0xa0;
  if (lead === 0xed) return second < 0xa0;
  if (lead === 0xf0) return second >= 0x90;
  if (lead === 0xf4) return second < 0x90;
  return true;
}
