/**
 * Text that is still to be written: as it is, or as the parts that it is made of when they are wanted. An answer with log-probabilities of a long prompt takes
 * seconds to put together, in which others want to be served.
 */
export class HeldText {
  /** Ahead of `#text`. */
  readonly #ahead: { text: string; parts: Iterator<string>; chars: number }[] = [];
  #text = '';
  #textChars = 0;
  /** Of parts, whose source is there until the last of them is made. */
  #partsChars = 0;

  get empty(): boolean {
    return this.#text === '' && this.#ahead.length === 0;
  }

  /** Of what is text. */
  get textChars(): number {
    return this.#textChars;
  }

  /** Of all that takes memory. */
  get kept(): number {
    return this.#textChars + this.#partsChars;
  }

  add(text: string): void {
    this.#text += text;
    this.#textChars += text.length;
  }

  /** @param chars that the parts make, about */
  addLater(parts: Iterable<string>, chars: number): void {
    this.#ahead.push({ text: this.#text, parts: parts[Symbol.iterator](), chars });
    this.#text = '';
    this.#partsChars += chars;
  }

  /** All text up to the next parts, and of those as many as make so many characters. */
  take(charsMin: number): string {
    let taken = '';
    for (let first = this.#ahead[0]; first !== undefined; first = this.#ahead[0]) {
      taken += first.text;
      this.#textChars -= first.text.length;
      first.text = '';
      for (let part = first.parts.next(); !part.done; part = first.parts.next()) {
        taken += part.value;
        if (taken.length >= charsMin) return taken;
      }
      this.#partsChars -= first.chars;
      this.#ahead.shift();
    }
    taken += this.#text;
    this.#textChars -= this.#text.length;
    this.#text = '';
    return taken;
  }

  clear(): void {
    this.#ahead.length = 0;
    this.#text = '';
    this.#textChars = 0;
    this.#partsChars = 0;
  }
}
