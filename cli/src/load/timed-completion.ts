import { performance } from 'node:perf_hooks';
import type { ApiClient } from '../api/client.ts';

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
  promptTokens: number;
  cachedTokens: number;
  outputTokens: number;
  /** False where the server sent no usage: outputTokens then counts chunks. */
  usageReported: boolean;
  finishReason: string | null;
  error: string | null;
}

interface StreamedChunk {
  choices?: { index: number; text?: string; delta?: { role?: string; content?: string | null }; finish_reason?: string | null }[];
  usage?: { prompt_tokens: number; completion_tokens: number; prompt_tokens_details?: { cached_tokens?: number } | null } | null;
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
    promptTokens: 0,
    cachedTokens: 0,
    outputTokens: 0,
    usageReported: false,
    finishReason: null,
    error: null,
  };
  try {
    await client.stream(chat ? '/v1/chat/completions' : '/v1/completions', body, {
      signal,
      onData: (data, atMs) => noteChunk(seen, JSON.parse(data) as StreamedChunk, atMs),
    });
    if (!seen.usageReported) seen.outputTokens = seen.chunkMs.length;
    if (seen.finishReason === null) seen.error = 'the stream ended without a finish_reason';
    else if (request.ignoreEos && seen.usageReported && seen.outputTokens < request.maxTokens)
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
  if (chunk.usage) {
    seen.usageReported = true;
    seen.promptTokens = chunk.usage.prompt_tokens;
    seen.outputTokens = chunk.usage.completion_tokens;
    seen.cachedTokens = chunk.usage.prompt_tokens_details?.cached_tokens ?? 0;
  }
}
