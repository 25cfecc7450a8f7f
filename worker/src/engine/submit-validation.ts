import { limits, type Submit, SwitchyardError } from '@switchyard/proto';

/** Whatever is done to a logit with numbers of this size, it stays a number in float64: one that overflowed would be taken for a corrupt weight. */
const sizeMax = 1e100;

/** What a token of an echoed prompt takes at most in the message that tells its log-probability, and what each alternative takes: a token's id and a double. */
const READING_BYTES = 16;
const ALTERNATIVE_BYTES = 12;

/**
 * Refuses a request that this worker could not serve as asked. The coordinator has validated what clients send; this is the worker's own guard, for its kernels
 * index by these numbers.
 *
 * @param capacity tokens that one sequence may have
 */
export function validateSubmit(request: Submit, vocab: number, capacity: number): SwitchyardError | null {
  const { prompt, prediction, sampling } = request;
  if (prompt.length === 0) return invalid('prompt', 'has no tokens; at least 1 is needed');
  if (prompt.length + Math.min(request.maxTokens, 1) > capacity) {
    const message = `the prompt has ${prompt.length} tokens; with room for one more the limit is ${capacity}`;
    return new SwitchyardError('context_length_exceeded', message, { param: 'prompt' });
  }
  const badToken = firstOutside(prompt, vocab);
  if (badToken >= 0) return invalid('prompt', `token ${badToken} is ${prompt[badToken]}; the vocabulary has ${vocab}`);
  if (prediction.length > capacity) return invalid('prediction', `has ${prediction.length} tokens; the limit is ${capacity}`);
  const badPredicted = firstOutside(prediction, vocab);
  if (badPredicted >= 0) return invalid('prediction', `token ${badPredicted} is ${prediction[badPredicted]}; the vocabulary has ${vocab}`);
  const badStop = firstOutside(request.stopTokens, vocab);
  if (badStop >= 0) return invalid('stopTokens', `entry ${badStop} is ${request.stopTokens[badStop]}; the vocabulary has ${vocab}`);
  const readingBytes = request.promptLogprobs ? prompt.length * (READING_BYTES + request.logprobs * ALTERNATIVE_BYTES) : 0;
  if (readingBytes > limits.controlMessageBytesMax)
    return invalid(
      'prompt',
      `has ${prompt.length} tokens; with ${request.logprobs} log-probabilities each they are too many for one message`,
    );
  if (request.logprobs > limits.topLogprobsMax) return invalid('logprobs', `is ${request.logprobs}; the limit is ${limits.topLogprobsMax}`);

  const { biasToken, biasValue } = sampling;
  if (biasToken.length !== biasValue.length || biasToken.length > limits.logitBiasMax) {
    return invalid(
      'biasToken',
      `has ${biasToken.length} tokens and ${biasValue.length} values; both must be equal and at most ${limits.logitBiasMax}`,
    );
  }
  const badBias = firstOutside(biasToken, vocab);
  if (badBias >= 0) return invalid('biasToken', `entry ${badBias} is ${biasToken[badBias]}; the vocabulary has ${vocab}`);
  for (let i = 0; i < biasValue.length; i++) {
    const wrong = outside('biasValue', biasValue[i], -sizeMax, sizeMax, `entry ${i} `);
    if (wrong !== null) return wrong;
  }

  return (
    outside('temperature', sampling.temperature, 0, sizeMax) ??
    outside('topP', sampling.topP, 0, 1) ??
    outside('minP', sampling.minP, 0, 1) ??
    outside('repetitionPenalty', sampling.repetitionPenalty, 1 / sizeMax, sizeMax) ??
    outside('presencePenalty', sampling.presencePenalty, -sizeMax, sizeMax) ??
    outside('frequencyPenalty', sampling.frequencyPenalty, -sizeMax, sizeMax)
  );
}

/** A number that is none counts as outside. */
function outside(param: string, value: number, least: number, most: number, entry = ''): SwitchyardError | null {
  return value >= least && value <= most ? null : invalid(param, `${entry}is ${value}; it must be in [${least}, ${most}]`);
}

function firstOutside(tokens: ArrayLike<number>, vocab: number): number {
  for (let i = 0; i < tokens.length; i++) if (!(tokens[i] >= 0 && tokens[i] < vocab)) return i;
  return -1;
}

function invalid(param: string, what: string): SwitchyardError {
  return new SwitchyardError('invalid_request', `${param} ${what}`, { param });
}
