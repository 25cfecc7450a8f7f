import { randomBytes } from 'node:crypto';
import { SwitchyardError } from '@switchyard/proto';
import { bounds } from '../bounds.ts';
import { Answer } from '../requests/answer.ts';
import type { AnswerFormat, AnswerFrame } from './answer-format.ts';
import { readJsonBody } from './body.ts';
import { ChatFormat } from './chat-format.ts';
import { readChatRequest } from './chat-request.ts';
import { CollectedResponse } from './collected-response.ts';
import { CompletionFormat } from './completion-format.ts';
import { type CompletionRequest, readCompletionRequest } from './completion-request.ts';
import type { Exchange } from './exchange.ts';
import { Fields, quoted } from './fields.ts';
import { answerSpecs, type GenerationRequest } from './generation-request.ts';
import type { Service } from './service.ts';
import { StreamedResponse } from './streamed-response.ts';
import { UnknownFields } from './unknown-fields.ts';

const unknownFields = new UnknownFields();

/** POST /v1/chat/completions */
export async function chatCompletions(service: Service, exchange: Exchange): Promise<void> {
  const fields = await readFields(service, exchange);
  const { conversation, ...rest } = readChatRequest(fields, service.model, service.tokenizing.template);
  unknownFields.log(service.log, exchange, fields);
  checkReady(service);
  const prompt = await service.tokenizing.encode({ kind: 'conversation', conversation }, service.contextMax());
  const request: GenerationRequest = { ...rest, prompts: [prompt] };
  const frame = answerFrame(service, `chatcmpl-${randomBytes(12).toString('hex')}`);
  const { wantLogprob, returnTokenIds } = request;
  run(service, exchange, fields, request, new ChatFormat(frame, service.tokenTexts, { wantLogprob, returnTokenIds, promptIds: prompt }));
}

/** POST /v1/completions */
export async function completions(service: Service, exchange: Exchange): Promise<void> {
  const fields = await readFields(service, exchange);
  const read = readCompletionRequest(fields, service.model);
  unknownFields.log(service.log, exchange, fields);
  checkReady(service);
  const prompts: number[][] = [];
  // One after the other: the tokenising thread is one.
  for (const prompt of read.prompts) prompts.push(await promptIds(service, prompt, read));
  const echo = read.echo
    ? read.prompts.map((prompt) => (typeof prompt === 'string' ? prompt : service.tokenizing.pieces.text(prompt)))
    : null;
  const request: GenerationRequest = { ...read, prompts, echo };
  const frame = answerFrame(service, `cmpl-${randomBytes(12).toString('hex')}`);
  const format = new CompletionFormat(frame, service.tokenTexts, {
    wantLogprob: request.wantLogprob,
    topLogprobs: request.topLogprobs,
    promptIds: request.returnTokenIds ? prompts : null,
    choicesPerPrompt: request.common.n,
  });
  run(service, exchange, fields, request, format);
}

/** POST /v1/chat/completions/input_tokens: what a conversation would cost, without running it. */
export async function chatInputTokens(service: Service, exchange: Exchange): Promise<Record<string, unknown>> {
  const fields = await readFields(service, exchange);
  const { conversation } = readChatRequest(fields, service.model, service.tokenizing.template);
  const ids = await service.tokenizing.encode({ kind: 'conversation', conversation }, service.contextMax());
  return { object: 'response.input_tokens', input_tokens: ids.length };
}

/** The body's fields, once it is known that they are meant for the model served here. */
export async function readFields(service: Service, { request }: Exchange): Promise<Fields> {
  const fields = new Fields(await readJsonBody(request, service.config.bodyBytesMax));
  const model = fields.text('model');
  if (model !== null && model !== service.modelId)
    throw new SwitchyardError('model_not_found', `model ${quoted(model)} is not served here; ${quoted(service.modelId)} is`, {
      param: 'model',
    });
  return fields;
}

async function promptIds(service: Service, prompt: string | number[], { addSpecialTokens }: CompletionRequest): Promise<number[]> {
  if (typeof prompt !== 'string') return prompt;
  const ids = await service.tokenizing.encode({ kind: 'text', text: prompt, addSpecialTokens, controls: true }, service.contextMax());
  if (ids.length === 0) throw new SwitchyardError('invalid_request', 'prompt has no tokens; at least one is needed', { param: 'prompt' });
  return ids;
}

function answerFrame(service: Service, id: string): AnswerFrame {
  return { id, created: Math.floor(Date.now() / 1000), model: service.modelId, fingerprint: service.fingerprint() };
}

function checkReady(service: Service): void {
  if (service.draining) throw new SwitchyardError('shutting_down', 'the server is shutting down');
  const { uncovered, places } = service.membership;
  if (uncovered === 0) return;
  const missing = places.filter(({ state }) => state !== 'serving').map(({ name }) => name);
  const shown = missing.slice(0, 8).join(', ');
  throw new SwitchyardError(
    'not_ready',
    `${uncovered} experts have no worker that serves them; waiting for ${shown}${missing.length > 8 ? ` and ${missing.length - 8} more` : ''}`,
  );
}

function run(service: Service, exchange: Exchange, fields: Fields, request: GenerationRequest, format: AnswerFormat): void {
  const { response, id, tenant } = exchange;
  // The client may have left while its prompt was tokenised.
  if (response.destroyed) return;
  const specs = answerSpecs(request, { requestId: id, tenant, domain: domainOf(exchange, fields) }, service.contextMax());
  const { dispatcher, metrics, membership, tokenizing } = service;
  const { places: workers } = membership;
  const base = { dispatcher, metrics: metrics.requests, workers, echo: request.echo, choicesPerPrompt: request.common.n };
  const { streaming } = request;
  metrics.requests.onRequest(request.common.n, request.common.maxTokens);
  const answers = streaming.stream
    ? new StreamedResponse(response, format, { ...streaming, pingMs: service.config.pingMs }, base)
    : new CollectedResponse(response, format, base);
  answers.start(specs.map((spec, index) => new Answer(index, spec, answers, tokenizing.pieces, tokenizing.specialIds)));
}

/** What kind of text this is, for traces: the header, or a field that OpenAI's clients can send. */
function domainOf({ request }: Exchange, fields: Fields): string {
  const header = request.headers['x-switchyard-domain'];
  if (typeof header === 'string') return header.slice(0, bounds.nameCharsMax);
  const metadata = fields.object('metadata');
  return metadata === null ? '' : (new Fields(metadata, 'metadata').text('domain', bounds.nameCharsMax) ?? '');
}
