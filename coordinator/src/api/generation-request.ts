import { SwitchyardError } from '@switchyard/proto';
import { DetailedError } from '../detailed-error.ts';
import type { AnswerSpec } from '../requests/answer.ts';
import { predictionTooLong } from '../tokenizing/prompt-text.ts';
import type { CommonSpec } from './sampling-fields.ts';
import { samplingOfChoice } from './sampling-fields.ts';
import type { StreamOptions } from './stream-fields.ts';

/** A request for text, validated, its prompts as ids: what chat and plain completions have in common from here on. */
export interface GenerationRequest {
  common: CommonSpec;
  streaming: StreamOptions;
  prompts: Int32Array[];
  /** What the client expects of each answer; empty: nothing in particular. */
  prediction: Int32Array;
  /** The field that the prompts came in. */
  promptField: 'messages' | 'prompt';
  /** What is echoed before each answer, per prompt; null: nothing. */
  echo: string[] | null;
  wantLogprob: boolean;
  topLogprobs: number;
}

/** For whom, and what kind of text it is. */
interface Caller {
  tenant: string;
  domain: string;
}

/**
 * One specification per prompt and choice, in the order of their indexes. Computes before it validates: the numbers in a message are the request's own.
 *
 * @throws DetailedError `context_length_exceeded` with the numbers, when a prompt leaves no room for what is asked; SwitchyardError `invalid_request` when no
 * answer can be as long as is asked
 */
export function answerSpecs(request: GenerationRequest, caller: Caller, contextMax: number): AnswerSpec[] {
  const { common, prediction } = request;
  if (prediction.length > contextMax) throw predictionTooLong(String(prediction.length), contextMax);
  return request.prompts.flatMap((prompt) => {
    const maxTokens = checkContext(prompt.length, request, contextMax);
    checkMinTokens(common, maxTokens);
    return Array.from({ length: common.n }, (_, choice) => ({
      prompt,
      prediction,
      maxTokens,
      minTokens: common.minTokens,
      sampling: samplingOfChoice(common.sampling, choice),
      stopTokens: common.stopTokens,
      clientStopTokens: common.clientStopTokens,
      stopStrings: common.stopStrings,
      includeStop: common.includeStop,
      skipSpecial: common.skipSpecial,
      wantLogprob: request.wantLogprob,
      topLogprobs: request.topLogprobs,
      promptLogprobs: request.echo !== null && request.wantLogprob,
      returnTokenIds: common.returnTokenIds,
      wantTraffic: common.wantTraffic,
      tenant: caller.tenant,
      domain: caller.domain,
      replaySequence: common.replaySequence,
    }));
  });
}

/** @returns tokens that may be generated: what is asked, or all that there is room for */
function checkContext(promptTokens: number, { common, promptField }: GenerationRequest, contextMax: number): number {
  const { maxTokens, maxTokensField } = common;
  const details = { n_prompt_tokens: promptTokens, n_ctx: contextMax };
  if (promptTokens + Math.min(maxTokens ?? 1, 1) > contextMax)
    throw new DetailedError(
      'context_length_exceeded',
      `the prompt has ${promptTokens} tokens; the context has ${contextMax} and must also hold the answer`,
      promptField,
      details,
    );
  if (maxTokens !== null && promptTokens + maxTokens > contextMax)
    throw new DetailedError(
      'context_length_exceeded',
      `${promptTokens} tokens of prompt and ${maxTokensField} ${maxTokens} make ${promptTokens + maxTokens}; the context has ${contextMax}`,
      maxTokensField,
      { ...details, max_tokens: maxTokens },
    );
  return maxTokens ?? contextMax - promptTokens;
}

/** The least that is asked for, against all that may be generated. */
function checkMinTokens({ minTokens, maxTokens, maxTokensField }: CommonSpec, room: number): void {
  if (minTokens <= room) return;
  const most = maxTokens === null ? `the context has room for ${room} tokens of answer` : `${maxTokensField} is ${maxTokens}`;
  throw new SwitchyardError('invalid_request', `min_tokens is ${minTokens}; ${most}`, { param: 'min_tokens' });
}
