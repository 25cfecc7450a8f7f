import { limits, type Submit, SwitchyardError } from '@switchyard/proto';

/**
 * Refuses a request that this worker could not serve as asked. The coordinator has validated what clients send; this is the worker's own guard, for its kernels
 * index by these numbers.
 *
 * @param capacity tokens that one sequence may have
 */
export function validateSubmit(request: Submit, vocab: number, capacity: number): SwitchyardError | null {
  const { prompt, sampling } = request;
  if (prompt.length === 0) return invalid('prompt', 'has no tokens; at least 1 is needed');
  if (prompt.length + Math.min(request.maxTokens, 1) > capacity) {
    const message = `the prompt has ${prompt.length} tokens; with room for one more the limit is ${capacity}`;
    return new SwitchyardError('context_length_exceeded', message, { param: 'prompt' });
  }
  const badToken = firstOutside(prompt, vocab);
  if (badToken >= 0) return invalid('prompt', `token ${badToken} is ${prompt[badToken]}; the vocabulary has ${vocab}`);
  const badStop = firstOutside(request.stopTokens, vocab);
  if (badStop >= 0) return invalid('stopTokens', `entry ${badStop} is ${request.stopTokens[badStop]}; the vocabulary has ${vocab}`);
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
  for (let i = 0; i < biasValue.length; i++)
    if (!Number.isFinite(biasValue[i])) return invalid('biasValue', `entry ${i} is ${biasValue[i]}`);

  if (!(sampling.temperature >= 0 && Number.isFinite(sampling.temperature)))
    return invalid('temperature', `is ${sampling.temperature}; it must be >= 0`);
  if (!(sampling.topP >= 0 && sampling.topP <= 1)) return invalid('topP', `is ${sampling.topP}; it must be in [0, 1]`);
  if (!(sampling.minP >= 0 && sampling.minP <= 1)) return invalid('minP', `is ${sampling.minP}; it must be in [0, 1]`);
  if (!(sampling.repetitionPenalty > 0 && Number.isFinite(sampling.repetitionPenalty))) {
    return invalid('repetitionPenalty', `is ${sampling.repetitionPenalty}; it must be > 0`);
  }
  if (!Number.isFinite(sampling.presencePenalty)) return invalid('presencePenalty', `is ${sampling.presencePenalty}`);
  if (!Number.isFinite(sampling.frequencyPenalty)) return invalid('frequencyPenalty', `is ${sampling.frequencyPenalty}`);
  return null;
}

function firstOutside(tokens: ArrayLike<number>, vocab: number): number {
  for (let i = 0; i < tokens.length; i++) if (!(tokens[i] >= 0 && tokens[i] < vocab)) return i;
  return -1;
}

function invalid(param: string, what: string): SwitchyardError {
  return new SwitchyardError('invalid_request', `${param} ${what}`, { param });
}
