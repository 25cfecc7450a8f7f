import { oncePerWish } from '@switchyard/proto';

/**
 * A signal that aborts on the first Ctrl-C (or SIGTERM), so that a command can end in order; another one, a second later or more, ends the process at once.
 * `release` gives the signals back to their default.
 */
export function interruptSignal(): { signal: AbortSignal; release(): void } {
  const controller = new AbortController();
  const onSignal = oncePerWish(
    () => controller.abort(),
    () => process.exit(130),
  );
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
