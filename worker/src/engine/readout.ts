import { Finish } from '@switchyard/proto';
import type { Model } from '../model/contract.ts';
import { argmax, logSumExp, topTokens } from '../sample/logits.ts';
import { Sampler } from '../sample/sampler.ts';
import type { Counters } from './counters.ts';
import type { Sequence } from './sequence.ts';
import type { StepOutput } from './step-output.ts';

/** Turns rows of logits into what clients receive: the next token, its logprob, and logprobs of the prompt. */
export class Readout {
  private readonly logits: Float32Array;
  /** The one that is read. (vocab) */
  private readonly row: Float64Array;
  private readonly capacity: number;
  private readonly sampler: Sampler;
  private readonly output: StepOutput;
  private readonly counters: Counters;

  /** @param capacity tokens of one sequence at most */
  constructor(model: Model, capacity: number, output: StepOutput, counters: Counters) {
    this.logits = model.logits.f32;
    this.row = new Float64Array(model.shape.vocab);
    this.capacity = capacity;
    this.sampler = new Sampler(model.shape.vocab);
    this.output = output;
    this.counters = counters;
  }

  /**
   * Reads the sequence's logit rows [first, end): logprobs of its prompt, and the next token once all tokens are computed; with it the tokens behind it as long as
   * they are what `guesses` more of the rows were computed for.
   * @throws SwitchyardError `internal` when a row holds no number
   */
  read(sequence: Sequence, first: number, end: number, guesses: number): void {
    const complete = sequence.computed === sequence.length;
    if (sequence.promptLogprobs !== null) {
      const start = sequence.computed - (end - first);
      for (let i = first; i < end; i++) this.judgePrompt(sequence, start + (i - first), i);
      if (complete) {
        this.output.addPrompt(sequence.promptLogprobs);
        sequence.promptLogprobs = null;
      }
    }
    if (!complete) return;
    this.counters.draftTokens += guesses;
    let row = end - 1 - guesses;
    while (this.produce(sequence, row) && row < end - 1) {
      this.counters.draftTokensAccepted++;
      if (sequence.finished) break;
      sequence.keepGuess();
      row++;
    }
  }

  /** The logits of row `index` follow prompt position `position` and so judge the token after it. */
  private judgePrompt(sequence: Sequence, position: number, index: number): void {
    if (position + 1 >= sequence.promptLength) return;
    const { logprob, top } = sequence.promptLogprobs!;
    const row = this.take(index);
    const total = logSumExp(row, row[argmax(row)]);
    // Indexed by position: a prompt that was preempted half way is read again.
    logprob[position] = row[sequence.tokens[position + 1]] - total;
    if (sequence.request.logprobs > 0) top[position] = this.alternatives(total, sequence.request.logprobs);
  }

  /** True when the token is the guessed one; it may be the last. */
  private produce(sequence: Sequence, index: number): boolean {
    const { request } = sequence;
    const first = sequence.produced === 0;
    if (request.maxTokens === 0) {
      this.output.addEnd(request.request, Finish.stopWithoutToken, sequence.cachedTokens, sequence.traffic);
      sequence.finished = true;
      return false;
    }
    const row = this.take(index);
    const token = this.sampler.choose(row, {
      sampling: request.sampling,
      history: sequence.history,
      masked: sequence.maskedTokens,
      index: sequence.produced,
    });
    const guessed = sequence.append(token);
    const finish = this.finishOf(sequence, token);
    let logprob: number | null = null;
    let top = null;
    if (request.wantLogprob) {
      const total = logSumExp(row, row[argmax(row)]);
      logprob = row[token] - total;
      top = this.alternatives(total, request.logprobs);
    }
    const cachedTokens = first ? sequence.cachedTokens : 0;
    const queuedUs = first ? sequence.queuedUs : 0;
    this.output.addToken(
      { request: request.request, token, finish, cachedTokens, queuedUs, logprob, top, traffic: sequence.traffic },
      first,
    );
    this.counters.generatedTokens++;
    sequence.finished = finish !== Finish.none;
    return guessed;
  }

  private take(index: number): Float64Array {
    const { row } = this;
    row.set(this.logits.subarray(index * row.length, (index + 1) * row.length));
    return row;
  }

  /** The most likely tokens of the row and their logprobs; `total` is its log-sum-exp. */
  private alternatives(total: number, wanted: number): { token: number[]; logprob: number[] } {
    const token = topTokens(this.row, wanted);
    return { token, logprob: token.map((id) => this.row[id] - total) };
  }

  private finishOf(sequence: Sequence, token: number): Finish {
    if (sequence.stopTokens.has(token)) return Finish.stop;
    if (sequence.produced >= sequence.request.maxTokens || sequence.length >= this.capacity) return Finish.length;
    return Finish.none;
  }
}
