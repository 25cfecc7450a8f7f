import type { ApiClient } from '../api/client.ts';
import { ForeignAnswer, onlyChoice } from '../api/json-answer.ts';

export interface Question {
  model: string;
  /** Token ids where the server has a tokenizer to give them, else text. */
  prompt: string | number[];
  maxTokens: number;
  /** 0 is greedy. */
  temperature: number;
  seed: number | null;
  /** Alternatives reported beside each chosen token. */
  topLogprobs: number;
}

/** Everything that a client can read of one answer, token by token. */
export interface Observation {
  /** Token ids where the server tells, else null. */
  ids: number[] | null;
  /** The tokens as text. */
  tokens: string[];
  /** Log-probability of each token, as printed by the server: JSON numbers carry every bit of a double. */
  logprobs: number[];
  /** The reported alternatives of each token, as canonical JSON. */
  alternatives: string[];
}

interface LogprobFields {
  /** OpenAI's completions format. */
  tokens?: string[] | null;
  token_logprobs?: (number | null)[];
  top_logprobs?: (Record<string, number> | null)[];
  /** The chat format, which llama.cpp uses for completions too. */
  content?: { id?: number; token: string; logprob: number; top_logprobs?: { token: string; logprob: number }[] }[] | null;
}

interface Choice {
  text?: string;
  logprobs?: LogprobFields | null;
  token_ids?: number[] | null;
}

/** Asks and keeps what came back. With `streamed` the same, put together from the chunks. */
export async function observe(client: ApiClient, question: Question, streamed: boolean, signal?: AbortSignal): Promise<Observation> {
  const body = requestBody(question);
  const seen: Observation = { ids: [], tokens: [], logprobs: [], alternatives: [] };
  if (streamed) {
    const onData = ({ choices }: { choices?: Choice[] }) => {
      if (choices?.[0]) take(seen, choices[0]);
    };
    await client.stream('/v1/completions', { ...body, stream: true }, { onData, signal });
  } else {
    const reply = await client.post<object>('/v1/completions', body, signal);
    take(seen, onlyChoice<Choice>(reply.body, '/v1/completions'));
  }
  if (seen.logprobs.length === 0) throw new ForeignAnswer('the server returned no logprobs: it cannot be checked');
  if (seen.ids?.length !== seen.tokens.length) seen.ids = null;
  return seen;
}

/**
 * The log-probabilities of `continuation` when it is given as part of the prompt instead of being generated (`echo`), or null where the server does not do
 * that.
 */
export async function observeAsPrompt(
  client: ApiClient,
  question: Question,
  prompt: number[],
  continuation: number[],
  signal?: AbortSignal,
): Promise<Observation | null> {
  const body = { ...requestBody({ ...question, prompt: [...prompt, ...continuation], maxTokens: 1 }), echo: true };
  const reply = await client.post<object>('/v1/completions', body, signal);
  const all: Observation = { ids: null, tokens: [], logprobs: [], alternatives: [] };
  take(all, onlyChoice<Choice>(reply.body, '/v1/completions'));
  if (all.logprobs.length !== prompt.length + continuation.length + 1) return null;
  return sliceObservation(all, prompt.length, prompt.length + continuation.length);
}

export function sliceObservation(o: Observation, from: number, to: number): Observation {
  return {
    ids: o.ids?.slice(from, to) ?? null,
    tokens: o.tokens.slice(from, to),
    logprobs: o.logprobs.slice(from, to),
    alternatives: o.alternatives.slice(from, to),
  };
}

function requestBody(question: Question): Record<string, unknown> {
  return {
    model: question.model,
    prompt: question.prompt,
    max_tokens: question.maxTokens,
    temperature: question.temperature,
    ...(question.seed === null ? {} : { seed: question.seed }),
    logprobs: question.topLogprobs,
    ignore_eos: true,
    return_token_ids: true,
  };
}

/** @throws ForeignAnswer where log-probabilities have neither of the forms that are known */
function take(seen: Observation, choice: Choice): void {
  const fields = choice.logprobs ?? {};
  if (Array.isArray(fields.content) && fields.content.every((entry) => typeof entry?.logprob === 'number')) {
    for (const { id, token, logprob, top_logprobs } of fields.content) {
      seen.tokens.push(token);
      seen.logprobs.push(logprob);
      seen.alternatives.push(JSON.stringify((top_logprobs ?? []).map((t) => [t.token, t.logprob])));
      if (id !== undefined) seen.ids?.push(id);
    }
  } else if (Array.isArray(fields.tokens) && areNumbers(fields.token_logprobs, fields.tokens.length)) {
    seen.tokens.push(...fields.tokens);
    seen.logprobs.push(...fields.token_logprobs.map((value) => value ?? Number.NaN));
    const tops = Array.isArray(fields.top_logprobs) ? fields.top_logprobs : [];
    seen.alternatives.push(...tops.map((top) => JSON.stringify(Object.entries(top ?? {}).sort(byName))));
    if (Array.isArray(choice.token_ids)) seen.ids?.push(...choice.token_ids);
  } else if (fields.content != null || fields.tokens != null)
    throw new ForeignAnswer(`log-probabilities of an unknown form: ${JSON.stringify(fields).slice(0, 80)}`);
}

/** So many, null where a token has none: the first of a prompt. */
function areNumbers(values: unknown, count: number): values is (number | null)[] {
  return Array.isArray(values) && values.length === count && values.every((value) => value === null || typeof value === 'number');
}

function byName([a]: [string, number], [b]: [string, number]): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
