import { performance } from 'node:perf_hooks';
import type { ApiClient } from '../api/client.ts';
import { countOf } from '../api/json-answer.ts';

export interface CompletionRequest {
  model: string;
  /** Text, token ids, or messages: the last goes to the chat endpoint. */
  prompt: string | number[] | { role: string; content: string }[];
  maxTokens: number;
  temperature: number;
  /** Generate to maxTokens even past an end-of-text token, where the server knows the field. */
  ignoreEos: boolean;
  extra: Record<string, unknown>;
}

/** One request as its client saw it. Times in milliseconds of performance.now. */
export interface TimedCompletion {
  startMs: number;
  /** Arrival of each chunk that carried generated text (or a token that is not text yet). */
  chunkMs: number[];
  endMs: number;
  /** Null where the server sent no usage: outputTokens then counts chunks. */
  promptTokens: number | null;
  /** Of the prompt's; null where the server does not tell. */
  cachedTokens: number | null;
  outputTokens: number;
  finishReason: string | null;
  error: string | null;
}

interface StreamedChunk {
  choices?: { index: number; text?: string; delta?: { role?: string; content?: string | null }; finish_reason?: string | null }[];
  usage?: { prompt_tokens?: unknown; completion_tokens?: unknown; prompt_tokens_details?: { cached_tokens?: unknown } | null } | null;
}

/** Streams one completion and notes when everything arrived. Never throws: a failure is part of the measurement. */
export async function timedCompletion(client: ApiClient, request: CompletionRequest, signal?: AbortSignal): Promise<TimedCompletion> {
  const chat = typeof request.prompt !== 'string' && typeof request.prompt[0] === 'object';
  const body = {
    model: request.model,
    [chat ? 'messages' : 'prompt']: request.prompt,
    max_tokens: request.maxTokens,
    temperature: request.temperature,
    ...(request.ignoreEos ? { ignore_eos: true } : {}),
    stream: true,
    stream_options: { include_usage: true },
    ...request.extra,
  };
  const seen: TimedCompletion = {
    startMs: performance.now(),
    chunkMs: [],
    endMs: 0,
    promptTokens: null,
    cachedTokens: null,
    outputTokens: 0,
    finishReason: null,
    error: null,
  };
  try {
    await client.stream(chat ? '/v1/chat/completions' : '/v1/completions', body, {
      signal,
      onData: (chunk: StreamedChunk, atMs) => noteChunk(seen, chunk, atMs),
    });
    if (seen.promptTokens === null) seen.outputTokens = seen.chunkMs.length;
    if (seen.finishReason === null) seen.error = 'the stream ended without a finish_reason';
    else if (request.ignoreEos && seen.promptTokens !== null && seen.outputTokens < request.maxTokens)
      seen.error = `asked for ${request.maxTokens} tokens, got ${seen.outputTokens} (finish_reason ${seen.finishReason})`;
  } catch (error) {
    seen.error = error instanceof Error ? error.message : String(error);
  }
  seen.endMs = performance.now();
  return seen;
}

function noteChunk(seen: TimedCompletion, chunk: StreamedChunk, atMs: number): void {
  const choice = chunk.choices?.[0];
  if (choice) {
    // A chat stream opens with the role and closes with an empty delta; neither is a token.
    const opening = choice.delta?.role !== undefined && !choice.delta.content;
    const closing = choice.finish_reason != null && !(choice.text ?? choice.delta?.content);
    if (!opening && !closing) seen.chunkMs.push(atMs);
    if (choice.finish_reason != null) seen.finishReason = choice.finish_reason;
  }
  const [prompt, output] = [countOf(chunk.usage?.prompt_tokens), countOf(chunk.usage?.completion_tokens)];
  if (prompt === null || output === null) return;
  seen.promptTokens = prompt;
  seen.outputTokens = output;
  seen.cachedTokens = countOf(chunk.usage?.prompt_tokens_details?.cached_tokens);
}
