/** Work that can pause between its steps: whoever runs it may let others have their turn there, or end it. */
export type Steps<T> = Generator<void, T>;

/** Tokens between two steps of what goes through a trace: of many layers and nodes they take tens of milliseconds. */
export const tokensPerTurn = 256;

/** Does all of it, and keeps the thread meanwhile. */
export function runThrough<T>(steps: Steps<T>): T {
  for (;;) {
    const { done, value } = steps.next();
    if (done) return value;
  }
}

export interface Turns {
  /** Asked between steps: true ends the work. */
  stop: () => boolean;
  /** Awaited between steps, so that whoever shares the thread can run (and abort). */
  pause: () => Promise<void>;
}

/** Lets others have their turn between steps. Null: it was to stop before the work was done. */
export async function runInTurns<T>(steps: Steps<T>, { stop, pause }: Turns): Promise<T | null> {
  while (!stop()) {
    const { done, value } = steps.next();
    if (done) return value;
    await pause();
  }
  return null;
}
