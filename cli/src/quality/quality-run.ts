import type { ApiClient } from '../api/client.ts';
import { ForeignAnswer, onlyChoice } from '../api/json-answer.ts';
import { CommandFailure } from '../failure.ts';
import { closedLoop } from '../load/closed-loop.ts';
import { tokenizeByServer } from '../load/prompts.ts';
import type { HeldOut } from './held-out.ts';
import { predictionWindows } from './held-out.ts';

export interface DomainQuality {
  domain: string;
  /** Tokens predicted. */
  tokens: number;
  natsPerToken: number;
  perplexity: number;
  bitsPerByte: number;
}

export interface QualityResult {
  domains: DomainQuality[];
  questions: number;
  answeredExactly: number;
}

export interface QualityOptions {
  client: ApiClient;
  model: string;
  heldOut: HeldOut;
  windowTokens: number;
  onProgress(done: number, total: number, what: string): void;
  signal: AbortSignal;
}

const requestsAtOnce = 4;
const answerTokensMax = 64;

/**
 * How well a served model predicts the held-out text, and how many questions it answers exactly, greedily. Everything goes through the API, so that what is
 * judged is what a client gets: its numeric class, its chat template, its tokenizer.
 */
export async function measureQuality(options: QualityOptions): Promise<QualityResult> {
  const { client, model, heldOut, signal } = options;
  const texts: { domain: string; bytes: number; windows: number[][] }[] = [];
  for (const { name, text } of heldOut.domains) {
    const ids = await tokenizeByServer(client, model, text, signal);
    if (ids === null) throw new CommandFailure(`${client.baseUrl} has no /tokenize: perplexity cannot be measured there`);
    texts.push({ domain: name, bytes: Buffer.byteLength(text), windows: predictionWindows(ids, options.windowTokens) });
  }
  const total = texts.reduce((sum, { windows }) => sum + windows.length, 0) + heldOut.questions.length;
  let done = 0;
  const domains: DomainQuality[] = [];
  for (const { domain, bytes, windows } of texts) {
    const nats = await closedLoop(windows.length, requestsAtOnce, signal, async (index) => {
      const lost = await negativeLogLikelihood(client, model, windows[index], signal);
      options.onProgress(++done, total, domain);
      return lost;
    });
    signal.throwIfAborted();
    domains.push(domainQuality(domain, bytes, windows, nats));
  }
  const right = await closedLoop(heldOut.questions.length, requestsAtOnce, signal, async (index) => {
    const { question, answer } = heldOut.questions[index];
    const given = await answerTo(client, model, question, signal);
    options.onProgress(++done, total, 'questions');
    return given.trim() === answer.trim() ? 1 : 0;
  });
  signal.throwIfAborted();
  return { domains, questions: heldOut.questions.length, answeredExactly: right.reduce<number>((sum, one) => sum + one, 0) };
}

function domainQuality(domain: string, bytes: number, windows: number[][], nats: number[]): DomainQuality {
  const tokens = windows.reduce((sum, window) => sum + window.length - 1, 0);
  const sum = nats.reduce((a, b) => a + b, 0);
  return { domain, tokens, natsPerToken: sum / tokens, perplexity: Math.exp(sum / tokens), bitsPerByte: sum / Math.LN2 / bytes };
}

interface Echo {
  logprobs?: { token_logprobs?: unknown } | null;
}

/** Minus the sum of the log-probabilities of a window's tokens but the first. */
async function negativeLogLikelihood(client: ApiClient, model: string, window: number[], signal: AbortSignal): Promise<number> {
  const body = { model, prompt: window, max_tokens: 1, temperature: 0, echo: true, logprobs: 1 };
  const reply = await client.post<object>('/v1/completions', body, signal);
  const told = onlyChoice<Echo>(reply.body, '/v1/completions').logprobs?.token_logprobs;
  const logprobs = Array.isArray(told) ? told.slice(1, window.length) : [];
  if (logprobs.length !== window.length - 1 || logprobs.some((value) => typeof value !== 'number'))
    throw new CommandFailure(`${client.baseUrl} does not return the logprobs of a prompt (echo): perplexity cannot be measured there`);
  return -(logprobs as number[]).reduce((a, b) => a + b, 0);
}

async function answerTo(client: ApiClient, model: string, question: string, signal: AbortSignal): Promise<string> {
  const body = { model, messages: [{ role: 'user', content: question }], max_tokens: answerTokensMax, temperature: 0 };
  const reply = await client.post<object>('/v1/chat/completions', body, signal);
  const content = onlyChoice<{ message?: { content?: unknown } | null }>(reply.body, '/v1/chat/completions').message?.content;
  // Null of a model that has said nothing but its reasoning, say.
  if (content == null) return '';
  if (typeof content !== 'string') throw new ForeignAnswer(`the message of /v1/chat/completions is no text`);
  return content;
}
