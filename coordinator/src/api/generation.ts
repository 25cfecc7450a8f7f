import { isUtf8 } from 'node:buffer';
import { randomBytes } from 'node:crypto';
import { SwitchyardError } from '@switchyard/proto';
import { bounds } from '../bounds.ts';
import { Answer } from '../requests/answer.ts';
import type { PromptText } from '../tokenizing/prompt-text.ts';
import type { EncodeOptions } from '../tokenizing/tokenizing.ts';
import type { AnswerFormat, AnswerFrame } from './answer-format.ts';
import { readJsonBody } from './body.ts';
import { ChatFormat } from './chat-format.ts';
import { readChatRequest } from './chat-request.ts';
import { CollectedResponse } from './collected-response.ts';
import { CompletionFormat } from './completion-format.ts';
import { type CompletionRequest, readCompletionRequest } from './completion-request.ts';
import type { Exchange } from './exchange.ts';
import { Fields } from './fields.ts';
import { answerSpecs, type GenerationRequest } from './generation-request.ts';
import { checkModel } from './model-routes.ts';
import type { Service } from './service.ts';
import { StreamedResponse } from './streamed-response.ts';
import { UnknownFields } from './unknown-fields.ts';

const unknownFields = new UnknownFields();
const NO_IDS = new Int32Array(0);

/** POST /v1/chat/completions */
export async function chatCompletions(service: Service, exchange: Exchange): Promise<void> {
  const fields = await readFields(service, exchange);
  const { conversation, predictedText, ...rest } = readChatRequest(fields, service.model, service.tokenizing.template, exchange.body);
  unknownFields.log(service.log, exchange, fields);
  const domain = domainOf(exchange, fields);
  checkReady(service, exchange);
  const texts: PromptText[] = [{ kind: 'conversation', conversation }];
  if (predictedText !== null) texts.push({ kind: 'prediction', text: predictedText });
  const [prompt, prediction = NO_IDS] = await service.tokenizing.encodeAll(texts, encodeOptions(service, exchange));
  const request: GenerationRequest = { ...rest, prompts: [prompt], prediction };
  const frame = answerFrame(service, `chatcmpl-${randomBytes(12).toString('hex')}`);
  const { wantLogprob, common } = request;
  const promptIds = common.returnTokenIds ? prompt : null;
  run(service, exchange, domain, request, new ChatFormat(frame, service.tokenTexts, { wantLogprob, promptIds }));
}

/** POST /v1/completions */
export async function completions(service: Service, exchange: Exchange): Promise<void> {
  const fields = await readFields(service, exchange);
  const read = readCompletionRequest(fields, service.model);
  unknownFields.log(service.log, exchange, fields);
  const domain = domainOf(exchange, fields);
  checkReady(service, exchange);
  const prompts = await promptIds(service, exchange, read);
  const echo = read.echo ? echoOf(service, exchange, read.prompts) : null;
  const request: GenerationRequest = { ...read, prompts, prediction: NO_IDS, echo };
  const frame = answerFrame(service, `cmpl-${randomBytes(12).toString('hex')}`);
  const format = new CompletionFormat(frame, service.tokenTexts, {
    wantLogprob: request.wantLogprob,
    topLogprobs: request.topLogprobs,
    promptIds: request.common.returnTokenIds ? prompts : null,
    choicesPerPrompt: request.common.n,
  });
  run(service, exchange, domain, request, format);
}

/** POST /v1/chat/completions/input_tokens: what a conversation would cost, without running it. */
export async function chatInputTokens(service: Service, exchange: Exchange): Promise<Record<string, unknown>> {
  const fields = await readFields(service, exchange);
  const { conversation } = readChatRequest(fields, service.model, service.tokenizing.template, exchange.body);
  const ids = await service.tokenizing.encode({ kind: 'conversation', conversation }, encodeOptions(service, exchange));
  return { object: 'response.input_tokens', input_tokens: ids.length };
}

/** The body's fields, once it is known that they are meant for the model served here. */
export async function readFields(service: Service, exchange: Exchange): Promise<Fields> {
  const fields = new Fields(await readJsonBody(exchange, service.config.bodyBytesMax));
  exchange.arrivedMs = performance.now();
  const model = fields.text('model');
  if (model !== null) checkModel(service, model);
  return fields;
}

async function promptIds(service: Service, exchange: Exchange, { prompts, addSpecialTokens }: CompletionRequest): Promise<Int32Array[]> {
  const texts = prompts
    .filter((prompt) => typeof prompt === 'string')
    .map((text) => ({ kind: 'text' as const, text, addSpecialTokens, controls: true }));
  const encoded = await service.tokenizing.encodeAll(texts, encodeOptions(service, exchange));
  if (encoded.some((ids) => ids.length === 0))
    throw new SwitchyardError('invalid_request', 'prompt has no tokens; at least one is needed', { param: 'prompt' });
  let next = 0;
  return prompts.map((prompt) => (typeof prompt === 'string' ? encoded[next++] : Int32Array.from(prompt)));
}

function encodeOptions(service: Service, { closed }: Exchange): EncodeOptions {
  return { tokensMax: service.contextMax() ?? Number.POSITIVE_INFINITY, unwanted: closed };
}

function answerFrame(service: Service, id: string): AnswerFrame {
  return { id, created: Math.floor(Date.now() / 1000), model: service.modelId, fingerprint: service.fingerprint() };
}

function checkReady(service: Service, { late }: Exchange): void {
  if (late) throw new SwitchyardError('shutting_down', 'the server is shutting down');
  const { uncovered, places } = service.membership;
  if (uncovered === 0) return;
  const missing = places.filter(({ state }) => state !== 'serving').map(({ name }) => name);
  const shown = missing.slice(0, 8).join(', ');
  throw new SwitchyardError(
    'not_ready',
    `${uncovered} experts have no worker that serves them; waiting for ${shown}${missing.length > 8 ? ` and ${missing.length - 8} more` : ''}`,
  );
}

function run(service: Service, exchange: Exchange, domain: string, request: GenerationRequest, format: AnswerFormat): void {
  const { response, id, tenant, arrivedMs } = exchange;
  // The client may have left while its prompt was tokenised.
  if (response.destroyed) return;
  // Unknown: all workers have gone meanwhile, and none will take it.
  const contextMax = service.contextMax() ?? Number.MAX_SAFE_INTEGER;
  const specs = answerSpecs(request, { tenant, domain }, contextMax);
  const { dispatcher, metrics, membership, tokenizing, log } = service;
  // Those that are refused for want of room are requests, too.
  metrics.requests.onRequest(request.common.n, request.common.maxTokens);
  exchange.ids.hold(idBytes(request) + (request.echo ?? []).reduce((sum, text) => sum + text.length, 0));
  const { places: workers } = membership;
  const base = {
    dispatcher,
    metrics: metrics.requests,
    log,
    requestId: id,
    arrivedMs,
    workers,
    echo: request.echo,
    choicesPerPrompt: request.common.n,
    memory: exchange.answer,
  };
  const { streaming } = request;
  const answers = streaming.stream
    ? new StreamedResponse(response, format, { ...streaming, pingMs: service.config.pingMs }, base)
    : new CollectedResponse(response, format, base);
  answers.start(specs.map((spec, index) => new Answer(index, spec, answers, tokenizing.pieces, tokenizing.specialIds)));
}

/** Prompts as text, which waits as long as their ids do. Of ids it can be a hundred times what the body had: there must be room before it is made. */
function echoOf({ tokenizing: { pieces } }: Service, exchange: Exchange, prompts: readonly (string | readonly number[])[]): string[] {
  let bytes = 0;
  for (const prompt of prompts)
    if (typeof prompt === 'string') bytes += prompt.length;
    else for (const token of prompt) bytes += pieces.bytes(token).length;
  exchange.ids.hold(bytes);
  return prompts.map((prompt) => (typeof prompt === 'string' ? prompt : pieces.text(prompt)));
}

function idBytes({ prompts, prediction }: GenerationRequest): number {
  return prompts.reduce((sum, { byteLength }) => sum + byteLength, prediction.byteLength);
}

/** What kind of text this is, for traces: the header, or a field that OpenAI's clients can send. */
function domainOf({ request }: Exchange, fields: Fields): string {
  const header = request.headers['x-switchyard-domain'];
  if (typeof header === 'string') return beginningOf(headerText(header), bounds.nameCharsMax);
  const metadata = fields.object('metadata');
  return metadata === null ? '' : (new Fields(metadata, 'metadata').text('domain', bounds.nameCharsMax) ?? '');
}

/** Node gives a header's bytes as Latin-1. Clients write UTF-8, and the same name in `metadata` is the same domain. */
function headerText(header: string): string {
  const bytes = Buffer.from(header, 'latin1');
  return isUtf8(bytes) ? bytes.toString('utf8') : header;
}

/** In whole characters: half a surrogate pair has no UTF-8. */
function beginningOf(text: string, charsMax: number): string {
  return text.slice(0, charsMax).replace(/[\ud800-\udbff]$/, '');
}
