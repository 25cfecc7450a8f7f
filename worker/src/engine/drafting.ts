import type { Draft } from './draft.ts';
import type { Sequence } from './sequence.ts';
import { StepCost } from './step-cost.ts';

/** What the decision needs to know of a stream. */
export interface Draftable {
  /** Guesses of its next tokens that there are. */
  readonly guesses: number;
  /** That the first of them is right, and each next one where those before it are. */
  readonly chance: number;
  /** The outcome: how many of them the step is to check. */
  proposed: number;
}

/** A row also costs the workers that compute its experts for others meanwhile, and nothing is gained where it is a close thing. */
const MARGIN = 1.25;

/**
 * Decides how many guesses of each stream a decode step takes along: the likeliest one more as long as it brings more tokens per millisecond than the step has without
 * it. Where round trips or shared weights are what a step takes, a row more is cheap and the second best chance is worth it; where rows are, none is.
 */
export function decideDrafts(streams: readonly Draftable[], cost: Pick<StepCost, 'ms' | 'rowMs'>): void {
  /** That each stream's next guess is right, with those before it. (streams) */
  const next = Float64Array.from(streams, ({ guesses, chance }) => (guesses > 0 ? chance : 0));
  for (const stream of streams) stream.proposed = 0;
  let rows = streams.length;
  let tokens = streams.length;
  for (;;) {
    const best = next.reduce((found, chance, i) => (chance > next[found] ? i : found), 0);
    if (!(next[best] * cost.ms(rows) > MARGIN * tokens * cost.rowMs)) return;
    const stream = streams[best];
    tokens += next[best];
    rows++;
    stream.proposed++;
    next[best] = stream.proposed < stream.guesses ? next[best] * stream.chance : 0;
  }
}

/**
 * Speculative decoding without a second model: streams guess their next tokens from their own text, and a step computes them as it computes a prompt. What the step's
 * own logits then choose is kept as long as it is what was guessed, so a client receives what it would have received without, to the last bit.
 */
export class Drafting {
  private readonly cost = new StepCost();
  private readonly max: number;
  private readonly capacity: number;

  /**
   * @param max guesses of one stream in one step
   * @param capacity tokens of one sequence at most
   */
  constructor(max: number, capacity: number) {
    this.max = max;
    this.capacity = capacity;
  }

  /** Lets those of the running sequences that wait for their next token guess. */
  propose(running: readonly Sequence[]): void {
    const drafts: Draft[] = [];
    for (const stream of running) {
      if (!isDue(stream)) continue;
      const wanted = Math.min(stream.request.maxTokens - stream.produced, this.capacity - stream.length) - 1;
      stream.guess(Math.min(this.max, wanted));
      drafts.push(stream.draft);
    }
    decideDrafts(drafts, this.cost);
  }

  /** A step over nothing but streams, `rows` with its guesses, took so long. */
  learn(rows: number, ms: number): void {
    this.cost.add(rows, ms);
  }
}

function isDue({ length, scheduled, inFlight, everyLogit }: Sequence): boolean {
  return inFlight === 0 && length - scheduled === 1 && !everyLogit;
}
