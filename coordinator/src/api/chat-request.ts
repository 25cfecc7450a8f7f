import { limits } from '@switchyard/proto';
import type { ChatTemplate, Conversation } from '../tokenizing/chat-template.ts';
import { readConversation, readPrediction } from './chat-messages.ts';
import { type Fields, shown } from './fields.ts';
import type { GenerationRequest } from './generation-request.ts';
import type { MemoryLease } from './leased-memory.ts';
import { type ModelBounds, readCommonFields, refuseUnsupported } from './sampling-fields.ts';
import { readStreamFields } from './stream-fields.ts';

type ChatRequest = Omit<GenerationRequest, 'prompts' | 'prediction'> & { conversation: Conversation; predictedText: string | null };

/** POST /v1/chat/completions. @throws SwitchyardError `invalid_request`, `body_too_large`, `queue_full` */
export function readChatRequest(fields: Fields, model: ModelBounds, template: ChatTemplate | null, body: MemoryLease): ChatRequest {
  refuseUnsupported(fields);
  const modalities = fields.list('modalities', 8);
  for (const modality of modalities ?? [])
    if (modality !== 'text') throw fields.invalid('modalities', `has ${shown(modality)}; this model writes "text" only`);
  fields.refuse('audio', 'this model writes text only');
  const streaming = readStreamFields(fields);
  const conversation = readConversation(fields, template, body);
  const common = readCommonFields(fields, model, 1);
  const wantLogprob = fields.flag('logprobs') ?? false;
  const topLogprobs = fields.whole('top_logprobs', 0, limits.topLogprobsMax) ?? 0;
  if (topLogprobs > 0 && !wantLogprob) throw fields.invalid('top_logprobs', `is ${topLogprobs} without logprobs: true`);
  const predictedText = readPrediction(fields);
  fields.ignore('verbosity', 'web_search_options', 'include_reasoning');
  const promptField = 'messages';
  return { common, streaming, conversation, predictedText, promptField, echo: null, wantLogprob, topLogprobs };
}
