import { findRepetition, MATCH_MAX } from './prompt-lookup.ts';

/** What a guess leaves of the weight of those before it: the latest ten or so count. */
const MEMORY = 0.9;
/** A stream begins as if it had guessed so often, and been right so often. */
const TRIES_AT_FIRST = 1.5;
const HITS_AT_FIRST = 0.5;

/** What a stream guesses of its next tokens. The guesses themselves stand behind its known tokens. */
export class Draft {
  guesses = 0;
  /** How many of them the next step is to check, and how many the running step does. */
  proposed = 0;
  checked = 0;
  /** Tokens alike before them and where they were found. */
  private match = 0;
  /** Guesses behind so many tokens alike, and those that were right. (MATCH_MAX + 1) */
  private readonly tries = new Float64Array(MATCH_MAX + 1).fill(TRIES_AT_FIRST);
  private readonly hits = new Float64Array(MATCH_MAX + 1).fill(HITS_AT_FIRST);

  /** That the first guess is right, and each next one where those before it are. */
  get chance(): number {
    return this.hits[this.match] / this.tries[this.match];
  }

  /** Writes up to `count` guesses behind the `length` tokens, for which there is room: what followed the last ones earlier; none where they are new. */
  make(tokens: Int32Array, length: number, count: number): void {
    const found = count > 0 ? findRepetition(tokens, length) : null;
    this.guesses = found === null ? 0 : count;
    this.match = found?.match ?? 0;
    // One by one, for guesses may follow guesses: a text that repeats itself all the time.
    if (found !== null) for (let i = 0; i < count; i++) tokens[length + i] = tokens[found.next + i];
  }

  /** Learns whether the first guess was right. If so, the others stand. */
  judge(right: boolean): void {
    if (this.guesses === 0) return;
    const { match, tries, hits } = this;
    tries[match] = tries[match] * MEMORY + 1;
    hits[match] = hits[match] * MEMORY + Number(right);
    this.guesses = right ? this.guesses - 1 : 0;
    this.match = Math.min(match + 1, MATCH_MAX);
  }
}
