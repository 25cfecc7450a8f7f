import { limits } from '@switchyard/proto';
import type { Fields } from './fields.ts';
import type { GenerationRequest } from './generation-request.ts';
import { checkToken, type ModelBounds, readCommonFields, refuseUnsupported } from './sampling-fields.ts';
import { readStreamFields } from './stream-fields.ts';

export type CompletionRequest = Omit<GenerationRequest, 'prompts' | 'prediction' | 'echo'> & {
  prompts: (string | number[])[];
  echo: boolean;
  addSpecialTokens: boolean;
};

/** POST /v1/completions. @throws SwitchyardError `invalid_request` */
export function readCompletionRequest(fields: Fields, model: ModelBounds): CompletionRequest {
  refuseUnsupported(fields);
  fields.refuse('suffix', 'this model does not fill in the middle');
  const streaming = readStreamFields(fields);
  const common = readCommonFields(fields, model, 0);
  const prompts = readPrompts(fields, model);
  const sequences = prompts.length * common.n;
  if (sequences > model.sequencesMax)
    throw fields.invalid('n', `${common.n} and ${prompts.length} prompts make ${sequences} sequences; the limit is ${model.sequencesMax}`);
  const logprobs = fields.whole('logprobs', 0, limits.topLogprobsMax);
  const echo = fields.flag('echo') ?? false;
  return {
    common,
    streaming,
    prompts,
    promptField: 'prompt',
    echo,
    wantLogprob: logprobs !== null,
    topLogprobs: logprobs ?? 0,
    addSpecialTokens: fields.flag('add_special_tokens') ?? true,
  };
}

/** A string, strings, token ids, or lists of token ids. */
function readPrompts(fields: Fields, { vocab, sequencesMax }: ModelBounds): (string | number[])[] {
  const given = fields.raw('prompt');
  if (given === null) throw fields.invalid('prompt', 'is missing');
  if (typeof given === 'string') return [given];
  if (!Array.isArray(given)) throw fields.wrong('prompt', given, 'a string, a list of strings, token ids or lists of token ids are needed');
  if (given.length === 0) throw fields.invalid('prompt', 'is empty');
  if (typeof given[0] === 'number') return [readIds(fields, given, vocab)];
  const promptsMax = Math.min(limits.promptsMax, sequencesMax);
  if (given.length > promptsMax) throw fields.invalid('prompt', `has ${given.length} prompts; the limit is ${promptsMax}`);
  return given.map((prompt) => {
    if (typeof prompt === 'string') return prompt;
    if (Array.isArray(prompt)) return readIds(fields, prompt, vocab);
    throw fields.wrong('prompt', prompt, 'entries must be strings or lists of token ids');
  });
}

function readIds(fields: Fields, ids: unknown[], vocab: number): number[] {
  if (ids.length === 0) throw fields.invalid('prompt', 'has no tokens; at least one is needed');
  return ids.map((id) => checkToken(fields, 'prompt', id, vocab));
}
