import { createContext, Script } from 'node:vm';

/**
 * Runs work of a checkpoint's making (its template, the patterns of its tokenizer) in this thread and ends it at a deadline. Whatever the work was changing may be half
 * changed then, without any `finally` having run: nothing that it touched may be used again.
 *
 * The clock is a thread that Node starts for each call, which costs this one a tenth of a millisecond or two.
 */
export class Deadline {
  readonly #msMax: number;
  readonly #slot = createContext({ work: null as (() => unknown) | null }) as { work: (() => unknown) | null };
  /** Node has a deadline for scripts, not for functions. */
  readonly #call = new Script('work()');

  constructor(msMax: number) {
    this.#msMax = msMax;
  }

  /** What the work returns, or null when it was ended. Throws what it throws. */
  run<T>(work: () => T): { value: T } | null {
    this.#slot.work = work;
    try {
      return { value: this.#call.runInContext(this.#slot, { timeout: this.#msMax }) as T };
    } catch (error) {
      if ((error as NodeJS.ErrnoException | null)?.code === 'ERR_SCRIPT_EXECUTION_TIMEOUT') return null;
      throw error;
    } finally {
      this.#slot.work = null;
    }
  }
}
