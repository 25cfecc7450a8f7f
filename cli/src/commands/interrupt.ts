import { oncePerWish } from '@switchyard/proto';

/**
 * SIGHUP is a terminal that was closed. Node gives it back its default at the start even where it was ignored (`nohup`), so it would end us in any case: the question is
 * only whether in order.
 */
const wishes = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/**
 * A signal that aborts on the first Ctrl-C (or SIGTERM, or SIGHUP), so that a command can end in order; another one, a second later or more, ends the process at
 * once. `release` gives the signals back to their default.
 */
export function interruptSignal(): { signal: AbortSignal; release(): void } {
  const controller = new AbortController();
  const onSignal = oncePerWish(
    () => controller.abort(),
    () => process.exit(130),
  );
  for (const wish of wishes) process.on(wish, onSignal);
  return {
    signal: controller.signal,
    release() {
      for (const wish of wishes) process.off(wish, onSignal);
    },
  };
}

export async function untilAborted(signal: AbortSignal): Promise<void> {
  await new Promise<void>((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener('abort', () => resolve(), { once: true });
  });
}
