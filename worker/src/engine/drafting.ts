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
 * Decides how many guesses of each stream a decode step takes along: the likeliest one more as long as there is a row for it and it brings more tokens per millisecond
 * than the step has without it. Where round trips or shared weights are what a step takes, a row more is cheap and the second best chance is worth it; where rows are,
 * none is.
 *
 * @param rowsFree that the step has besides one for each stream
 */
export function decideDrafts(streams: readonly Draftable[], rowsFree: number, cost: Pick<StepCost, 'ms' | 'rowMs'>): void {
  /** That each stream's next guess is right, with those before it. (streams) */
  const next = Float64Array.from(streams, ({ guesses, chance }) => (guesses > 0 ? chance : 0));
  for (const stream of streams) stream.proposed = 0;
  const before = (a: number, b: number) => next[a] > next[b] || (next[a] === next[b] && a < b);
  /** A heap whose top is the likeliest: what is in order is one. */
  const heap = Array.from(streams.keys()).sort((a, b) => (before(a, b) ? -1 : 1));
  let rows = streams.length;
  let tokens = streams.length;
  for (let left = rowsFree; left > 0 && heap.length > 0; left--) {
    const [best] = heap;
    if (!(next[best] * cost.ms(rows) > MARGIN * tokens * cost.rowMs)) return;
    const stream = streams[best];
    tokens += next[best];
    rows++;
    stream.proposed++;
    next[best] = stream.proposed < stream.guesses ? next[best] * stream.chance : 0;
    sinkTop(heap, before);
  }
}

/** Puts the first entry, which has fallen behind others, in its place. */
function sinkTop(heap: number[], before: (a: number, b: number) => boolean): void {
  const entry = heap[0];
  let at = 0;
  for (;;) {
    let child = 2 * at + 1;
    if (child + 1 < heap.length && before(heap[child + 1], heap[child])) child++;
    if (child >= heap.length || before(entry, heap[child])) break;
    heap[at] = heap[child];
    at = child;
  }
  heap[at] = entry;
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

  /**
   * Lets those of the running sequences that wait for their next token guess.
   *
   * @param rows of the step, and logits, at most
   */
  propose(running: readonly Sequence[], rows: number): void {
    const drafts: Draft[] = [];
    let rowsFree = rows;
    for (const stream of running) {
      if (!isDue(stream)) continue;
      rowsFree--;
      if (stream.everyLogit) continue;
      const wanted = Math.min(stream.request.maxTokens - stream.produced, this.capacity - stream.length) - 1;
      stream.guess(Math.min(this.max, wanted));
      drafts.push(stream.draft);
    }
    decideDrafts(drafts, rowsFree, this.cost);
  }

  /** A step over nothing but streams, `rows` with its guesses, took so long. */
  learn(rows: number, ms: number): void {
    this.cost.add(rows, ms);
  }
}

function isDue({ length, scheduled, inFlight }: Sequence): boolean {
  return inFlight === 0 && length - scheduled === 1;
}
