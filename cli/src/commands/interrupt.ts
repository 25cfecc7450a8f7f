import { performance } from 'node:perf_hooks';

/** A terminal's Ctrl-C reaches npm too, and npm passes it on: the same wish arrives twice within milliseconds. */
const sameWishMs = 1000;

/**
 * A signal that aborts on the first Ctrl-C (or SIGTERM), so that a command can end in order; another one, a second later or more, ends the process at once.
 * `release` gives the signals back to their default.
 */
export function interruptSignal(): { signal: AbortSignal; release(): void } {
  const controller = new AbortController();
  let firstMs = 0;
  const onSignal = () => {
    if (!controller.signal.aborted) {
      firstMs = performance.now();
      controller.abort();
    } else if (performance.now() - firstMs >= sameWishMs) process.exit(130);
  };
  process.on('SIGINT', onSignal);
  process.on('SIGTERM', onSignal);
  return {
    signal: controller.signal,
    release() {
      process.off('SIGINT', onSignal);
      process.off('SIGTERM', onSignal);
    },
  };
}
