/**
 * Watches a text that arrives in pieces for stop strings. Text that may be the beginning of one is held back, across any number of pieces, so that nothing of a
 * stop string is ever seen by a client that did not ask for it.
 */
export class StopStrings {
  readonly #stops: readonly string[];
  readonly #include: boolean;
  #held = '';

  /** @param include the stop string itself is part of the answer */
  constructor(stops: readonly string[], include: boolean) {
    this.#stops = stops;
    this.#include = include;
  }

  /**
   * @param mayStop  a stop string that ends in this piece counts; where it does not, one that only begins there still may
   * @returns text that may leave, and whether a stop string ended the text there. Of several, the one that begins first.
   */
  push(piece: string, mayStop = true): { text: string; stopped: boolean } {
    const text = this.#held + piece;
    let at = -1;
    let found = '';
    for (const stop of mayStop ? this.#stops : []) {
      // One that ended in what is held did so when it did not count.
      const index = text.indexOf(stop, Math.max(0, this.#held.length - stop.length + 1));
      if (index >= 0 && (at < 0 || index < at)) {
        at = index;
        found = stop;
      }
    }
    if (at >= 0) {
      this.#held = '';
      return { text: text.slice(0, this.#include ? at + found.length : at), stopped: true };
    }
    const free = text.length - this.#heldChars(text);
    this.#held = text.slice(free);
    return { text: text.slice(0, free), stopped: false };
  }

  /** The text ended without a stop string: what was held back is text after all. */
  end(): string {
    const rest = this.#held;
    this.#held = '';
    return rest;
  }

  /** Length of the longest end of the text that begins a stop string. */
  #heldChars(text: string): number {
    let longest = 0;
    for (const stop of this.#stops) {
      for (let length = Math.min(stop.length - 1, text.length); length > longest; length--) {
        if (text.endsWith(stop.slice(0, length))) {
          longest = length;
          break;
        }
      }
    }
    return longest;
  }
}
