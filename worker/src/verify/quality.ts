import { SwitchyardError } from '@switchyard/proto';
import type { Model } from '../model/contract.ts';
import { wholeModel } from './lockstep-cluster.ts';
import { greedy, SequenceRun } from './sequence-run.ts';

export interface Perplexity {
  /** Tokens predicted. */
  tokens: number;
  /** Mean negative log-likelihood of a token, in nats. */
  nats: number;
  perplexity: number;
}

/**
 * How well a model predicts a text: windows of `seen` tokens that step by seen - 1, the first token of each given, so that every token but the text's first
 * is predicted once. Log-probabilities are taken in double from f32 logits.
 *
 * @throws SwitchyardError `invalid_request` where nothing would be predicted
 */
export function measurePerplexity(
  model: Model,
  ids: ArrayLike<number>,
  seen: number,
  onProgress: (done: number, total: number) => void,
): Perplexity {
  if (!Number.isSafeInteger(seen) || seen < 2) throw refusal('seen', `is ${seen}; it must be an integer from 2`);
  if (ids.length < 2) throw refusal('ids', `has ${ids.length} tokens; at least 2 are needed`);
  const runner = wholeModel(model);
  const { vocab } = model.shape;
  const tokens = Int32Array.from(ids);
  let nats = 0;
  let predicted = 0;
  for (let from = 0; from + 1 < tokens.length; from += seen - 1) {
    const window = tokens.subarray(from, from + seen);
    const { logits } = new SequenceRun(runner, window.length).feed(window);
    for (let row = 0; row + 1 < window.length; row++) nats -= logProbability(logits, row, vocab, window[row + 1]!);
    predicted += window.length - 1;
    onProgress(predicted, tokens.length - 1);
  }
  return { tokens: predicted, nats: nats / predicted, perplexity: Math.exp(nats / predicted) };
}

function refusal(param: string, what: string): SwitchyardError {
  return new SwitchyardError('invalid_request', `${param} ${what}`, { param });
}

/** log softmax of one row of logits (rows, vocab) at `token`. */
function logProbability(logits: Float32Array, row: number, vocab: number, token: number): number {
  const scores = logits.subarray(row * vocab, (row + 1) * vocab);
  let max = Number.NEGATIVE_INFINITY;
  for (const score of scores) max = Math.max(max, score);
  let sum = 0;
  for (const score of scores) sum += Math.exp(score - max);
  return scores[token]! - max - Math.log(sum);
}

export interface Question {
  /** Token ids of the prompt, ready to be answered. */
  prompt: ArrayLike<number>;
  /** The text that counts as right. */
  answer: string;
}

/**
 * Answers questions greedily and counts those that are exactly right. `stop`: ids that end an answer and are not part of it; `decode` turns ids into the
 * text that is compared.
 */
export function answerQuestions(
  model: Model,
  questions: readonly Question[],
  options: { stop: ReadonlySet<number>; maxTokens: number; decode: (ids: number[]) => string },
  onProgress: (done: number, total: number) => void,
): { exact: number; answers: string[] } {
  const answers = questions.map(({ prompt }, i) => {
    const answer = options.decode(answerGreedily(model, prompt, options));
    onProgress(i + 1, questions.length);
    return answer;
  });
  return { exact: answers.filter((answer, i) => answer === questions[i]!.answer).length, answers };
}

function answerGreedily(
  model: Model,
  prompt: ArrayLike<number>,
  { stop, maxTokens }: { stop: ReadonlySet<number>; maxTokens: number },
): number[] {
  const { vocab, maxContext } = model.shape;
  const room = Math.min(maxTokens, maxContext - prompt.length);
  const run = new SequenceRun(wholeModel(model), prompt.length + room);
  const answer: number[] = [];
  let next = greedy(run.feed(prompt).logits, prompt.length - 1, vocab);
  while (answer.length < room && !stop.has(next)) {
    answer.push(next);
    if (answer.length < room) next = greedy(run.feed([next]).logits, 0, vocab);
  }
  return answer;
}
