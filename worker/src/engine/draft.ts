import type { PredictedText } from '@switchyard/proto';
import { HitRates, PREDICTED } from './hit-rates.ts';
import { findRepetition, MATCH_MAX } from './prompt-lookup.ts';

/** Of a stream's own guesses the latest thirty or so count: fewer, and the luckiest of many streams would be taken for the likeliest. */
const MEMORY = 0.97;
const NOTHING = new Int32Array(0);

/** What a stream guesses of its next tokens. The guesses themselves stand behind its known tokens. */
export class Draft {
  guesses = 0;
  /** How many of them the next step is to check, and how many the running step does. */
  proposed = 0;
  checked = 0;
  /** Tokens alike before them and where they were found, or PREDICTED. */
  private ground = 0;
  private readonly own: HitRates;
  private readonly all: HitRates;
  private readonly predicted: PredictedText | null;

  /**
   * @param all what guesses of all streams have come to: what this one believes until it has guessed itself
   * @param predicted what its client expects, told of every token that was chosen; null: nothing
   */
  constructor(all: HitRates, predicted: PredictedText | null) {
    this.all = all;
    this.own = new HitRates(MEMORY, all);
    this.predicted = predicted;
  }

  /** That the first guess is right, and each next one where those before it are. */
  get chance(): number {
    return this.own.of(this.ground);
  }

  /**
   * Writes up to `count` guesses behind the `length` tokens, for which there is room: what the client expects, or what followed the last tokens earlier, whichever is
   * right more often; none where neither says anything.
   */
  make(tokens: Int32Array, length: number, count: number): void {
    this.guesses = 0;
    if (count <= 0) return;
    const expected = this.predicted?.expected(count) ?? NOTHING;
    const found = findRepetition(tokens, length);
    if (expected.length > 0 && (found === null || this.own.of(PREDICTED) >= this.own.of(found.match))) {
      this.ground = PREDICTED;
      this.guesses = expected.length;
      tokens.set(expected, length);
    } else if (found !== null) {
      this.ground = found.match;
      this.guesses = count;
      // One by one, for guesses may follow guesses: a text that repeats itself all the time.
      for (let i = 0; i < count; i++) tokens[length + i] = tokens[found.next + i];
    }
  }

  /**
   * Learns whether the first guess was right. If so, the others stand. One that no step had checked teaches as well: where hardly any is right, no row has to be
   * spent to see that they are again.
   */
  judge(right: boolean): void {
    if (this.guesses === 0) return;
    this.own.add(this.ground, right);
    this.all.add(this.ground, right);
    this.guesses = right ? this.guesses - 1 : 0;
    if (this.ground < MATCH_MAX) this.ground++;
  }
}
