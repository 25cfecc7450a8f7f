import { MATCH_MAX } from './prompt-lookup.ts';

/** What a guess rests on: so many tokens alike (up to MATCH_MAX), or this, that its client expects it. */
export const PREDICTED = MATCH_MAX + 1;

/** As if nobody had guessed yet: one in three is right. */
const RATE_AT_FIRST = 1 / 3;
/** Who says what to expect knows something. */
const PREDICTED_AT_FIRST = 2 / 3;
/** What is believed at first counts like so many guesses: one that was right by chance must not start a row of wrong ones. */
const TRIES_AT_FIRST = 4;
/** Of the guesses of all streams of a worker the latest five hundred or so count. */
const WORKER_MEMORY = 0.998;

/** How many of the latest guesses on each ground were right. */
export class HitRates {
  private readonly memory: number;
  private readonly prior: HitRates | null;
  /** (PREDICTED + 1) */
  private readonly tries = new Float64Array(PREDICTED + 1);
  private readonly hits = new Float64Array(PREDICTED + 1);

  /** Of the guesses of all streams. */
  static ofWorker(): HitRates {
    return new HitRates(WORKER_MEMORY);
  }

  /**
   * @param memory what a guess leaves of the weight of those before it
   * @param prior what is believed before the first guess
   */
  constructor(memory: number, prior: HitRates | null = null) {
    this.memory = memory;
    this.prior = prior;
  }

  of(ground: number): number {
    if (this.tries[ground] > 0) return this.hits[ground] / this.tries[ground];
    return this.prior?.of(ground) ?? (ground === PREDICTED ? PREDICTED_AT_FIRST : RATE_AT_FIRST);
  }

  add(ground: number, right: boolean): void {
    const tries = this.tries[ground] || TRIES_AT_FIRST;
    const hits = this.of(ground) * tries;
    this.tries[ground] = tries * this.memory + 1;
    this.hits[ground] = hits * this.memory + Number(right);
  }
}
