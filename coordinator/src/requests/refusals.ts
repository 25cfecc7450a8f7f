import { isFailure, isRefusal, restMs } from './rest.ts';

/**
 * Which workers have refused or failed what they were asked of late. One that is about to end, or that fails all at once, has ever less to do, and would be asked
 * first.
 */
export class Refusals {
  /** performance.now. */
  readonly #untilMs: number[];
  /** How often in a row each was found to fail. */
  readonly #failures: number[];

  constructor(workers: number) {
    this.#untilMs = Array<number>(workers).fill(0);
    this.#failures = Array<number>(workers).fill(0);
  }

  /** @returns whether another worker may take what this one has not */
  note(worker: number, code: string, nowMs: number): boolean {
    if (isFailure(code)) {
      // What fails during its rest was sent before it, or because nobody else was left: it tells nothing new.
      if (this.isResting(worker, nowMs)) return false;
      this.#failures[worker]++;
    }
    this.#untilMs[worker] = Math.max(this.#untilMs[worker], nowMs + restMs(code, this.#failures[worker]));
    return isRefusal(code);
  }

  /** It has begun to answer something. */
  answers(worker: number): void {
    this.#failures[worker] = 0;
  }

  /** It takes nothing any more until it is back. */
  leaves(worker: number): void {
    this.#untilMs[worker] = Number.POSITIVE_INFINITY;
  }

  /** Whoever comes next under its name has refused nothing. */
  forget(worker: number): void {
    this.#untilMs[worker] = 0;
    this.#failures[worker] = 0;
  }

  isLeaving(worker: number): boolean {
    return this.#untilMs[worker] === Number.POSITIVE_INFINITY;
  }

  isResting(worker: number, nowMs: number): boolean {
    return nowMs < this.#untilMs[worker];
  }
}
