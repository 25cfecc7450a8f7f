import { HitRates } from './hit-rates.ts';
import { findRepetition, MATCH_MAX } from './prompt-lookup.ts';

/** Of a stream's own guesses the latest ten or so count. */
const MEMORY = 0.9;

/** What a stream guesses of its next tokens. The guesses themselves stand behind its known tokens. */
export class Draft {
  guesses = 0;
  /** How many of them the next step is to check, and how many the running step does. */
  proposed = 0;
  checked = 0;
  /** Tokens alike before them and where they were found. */
  private match = 0;
  private readonly own: HitRates;
  private readonly all: HitRates;

  /** @param all what guesses of all streams have come to: what this one believes until it has guessed itself */
  constructor(all: HitRates) {
    this.all = all;
    this.own = new HitRates(MEMORY, all);
  }

  /** That the first guess is right, and each next one where those before it are. */
  get chance(): number {
    return this.own.of(this.match);
  }

  /** Writes up to `count` guesses behind the `length` tokens, for which there is room: what followed the last ones earlier; none where they are new. */
  make(tokens: Int32Array, length: number, count: number): void {
    const found = count > 0 ? findRepetition(tokens, length) : null;
    this.guesses = found === null ? 0 : count;
    this.match = found?.match ?? 0;
    // One by one, for guesses may follow guesses: a text that repeats itself all the time.
    if (found !== null) for (let i = 0; i < count; i++) tokens[length + i] = tokens[found.next + i];
  }

  /**
   * Learns whether the first guess was right. If so, the others stand. One that no step had checked teaches as well: where hardly any is right, no row has to be
   * spent to see that they are again.
   */
  judge(right: boolean): void {
    if (this.guesses === 0) return;
    this.own.add(this.match, right);
    this.all.add(this.match, right);
    this.guesses = right ? this.guesses - 1 : 0;
    this.match = Math.min(this.match + 1, MATCH_MAX);
  }
}
