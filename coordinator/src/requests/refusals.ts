import { bounds } from '../bounds.ts';

/** Codes by which a worker says that it takes nothing new, and for how long it is then left alone: one that shuts down until it is back. */
const restMs = new Map<string, number>([
  ['shutting_down', Number.POSITIVE_INFINITY],
  ['not_ready', bounds.refusalRestMs],
  ['queue_full', bounds.refusalRestMs],
]);

/** Which workers have refused what they were asked of late: one that is about to end has ever less to do, and would be asked first. */
export class Refusals {
  /** performance.now. */
  readonly #untilMs: number[];

  constructor(workers: number) {
    this.#untilMs = Array<number>(workers).fill(0);
  }

  /** @returns whether another worker may take what this one has not */
  note(worker: number, code: string, nowMs: number): boolean {
    const rest = restMs.get(code);
    if (rest === undefined) return false;
    this.#untilMs[worker] = Math.max(this.#untilMs[worker], nowMs + rest);
    return true;
  }

  /** It takes nothing any more until it is back. */
  leaves(worker: number): void {
    this.#untilMs[worker] = Number.POSITIVE_INFINITY;
  }

  /** Whoever comes next under its name has refused nothing. */
  forget(worker: number): void {
    this.#untilMs[worker] = 0;
  }

  isLeaving(worker: number): boolean {
    return this.#untilMs[worker] === Number.POSITIVE_INFINITY;
  }

  isResting(worker: number, nowMs: number): boolean {
    return nowMs < this.#untilMs[worker];
  }
}
