import { MATCH_MAX } from './prompt-lookup.ts';

/** As if nobody had guessed yet: one in three is right. */
const RATE_AT_FIRST = 1 / 3;
/** What is believed at first counts like so many guesses: one that was right by chance must not start a row of wrong ones. */
const TRIES_AT_FIRST = 4;

/** How many of the latest guesses behind so many tokens alike were right. */
export class HitRates {
  private readonly memory: number;
  private readonly prior: HitRates | null;
  /** (MATCH_MAX + 1) */
  private readonly tries = new Float64Array(MATCH_MAX + 1);
  private readonly hits = new Float64Array(MATCH_MAX + 1);

  /**
   * @param memory what a guess leaves of the weight of those before it
   * @param prior what is believed before the first guess
   */
  constructor(memory: number, prior: HitRates | null = null) {
    this.memory = memory;
    this.prior = prior;
  }

  of(match: number): number {
    if (this.tries[match] > 0) return this.hits[match] / this.tries[match];
    return this.prior?.of(match) ?? RATE_AT_FIRST;
  }

  add(match: number, right: boolean): void {
    const tries = this.tries[match] || TRIES_AT_FIRST;
    const hits = this.of(match) * tries;
    this.tries[match] = tries * this.memory + 1;
    this.hits[match] = hits * this.memory + Number(right);
  }
}
