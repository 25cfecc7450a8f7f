/** Positions that are looked through on either side of the last right one: some microseconds where nothing is found. */
const WINDOW = 8192;
/** So close behind it one token suffices to find the answer again: a word that was changed is one token or a few. */
const NEAR = 8;

/**
 * Follows an answer through the text that its client expects of it (a "predicted output"), which may come with passages changed, left out or added. Which token it
 * expects next is a function of the two texts alone: a worker guesses by it, and the coordinator counts what came as expected, by the same rule.
 */
export class PredictedText {
  /** Tokens that came as expected. */
  met = 0;
  private readonly tokens: Int32Array;
  /** Position of the token that is expected; the length where none is. */
  private at = 0;
  /** Behind the last token that came as expected: where the answer is looked for once it has gone its own way. */
  private anchor = 0;
  private last = -1;

  /** @param tokens not copied: all choices of a request expect the same */
  constructor(tokens: Int32Array) {
    this.tokens = tokens;
  }

  get length(): number {
    return this.tokens.length;
  }

  /** The tokens that are expected, at most `count`. */
  expected(count: number): Int32Array {
    return this.tokens.subarray(this.at, this.at + count);
  }

  /** The answer's next token. */
  push(token: number): void {
    const expected = this.at < this.length && this.tokens[this.at] === token;
    if (expected) {
      this.met++;
      this.anchor = ++this.at;
    } else this.at = this.behind(this.last, token);
    this.last = token;
  }

  /**
   * The position behind the second of the answer's last two tokens, where it stands close behind the anchor; else behind both, the next after the anchor or the latest
   * before it; the length where there is none.
   */
  private behind(first: number, second: number): number {
    const { tokens, anchor } = this;
    const near = tokens.subarray(anchor, anchor + NEAR).indexOf(second);
    if (near >= 0) return anchor + near + 1;
    const isPair = (i: number) => tokens[i] === second && tokens[i - 1] === first;
    for (let i = Math.max(1, anchor), end = Math.min(this.length, anchor + WINDOW); i < end; i++) if (isPair(i)) return i + 1;
    for (let i = Math.min(anchor, this.length) - 1, end = Math.max(1, anchor - WINDOW); i >= end; i--) if (isPair(i)) return i + 1;
    return this.length;
  }
}
