/** Whoever starts us may pass a Ctrl-C on that the terminal has sent us too: the same wish arrives twice within milliseconds. */
const SAME_WISH_MS = 1000;

/** A handler for signals that ask for the end. @param again when asked once more, a second later or more: whoever asks is in a hurry */
export function oncePerWish<T extends unknown[]>(first: (...args: T) => void, again: () => void): (...args: T) => void {
  let askedMs: number | null = null;
  return (...args) => {
    if (askedMs === null) {
      askedMs = performance.now();
      first(...args);
    } else if (performance.now() - askedMs >= SAME_WISH_MS) again();
  };
}
