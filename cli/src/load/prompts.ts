import type { ApiClient } from '../api/client.ts';
import { ApiError } from '../api/client.ts';
import type { ModelCard } from '../api/models.ts';
import { randomStream } from './random-stream.ts';

/** Low ids are control tokens in most vocabularies; a prompt of them measures something else. */
const firstOrdinaryId = 256;
/** Ids below this exist in every vocabulary that is served in practice. */
const vocabDefault = 4096;

/** How many ids a model has, as far as its server tells. */
export function vocabOf(card: ModelCard): number {
  return card.meta?.n_vocab ?? vocabDefault;
}

/**
 * `count` prompts of `tokens` tokens each, all different from their first token on, so that no server answers from its prefix cache; the first
 * `sharedTokens` are the same in all, to measure that cache.
 */
export function randomIdPrompts(count: number, tokens: number, sharedTokens: number, vocab: number, seed: number): number[][] {
  const random = randomStream(seed);
  // A vocabulary of a few hundred has ordinary ones among those.
  const first = Math.min(firstOrdinaryId, vocab >> 1);
  const drawId = () => first + Math.floor(random() * (vocab - first));
  const shared = Array.from({ length: Math.min(sharedTokens, tokens) }, drawId);
  return Array.from({ length: count }, () => [...shared, ...Array.from({ length: tokens - shared.length }, drawId)]);
}

/** Where windows of a text began in this run: none begins there again, or a server would answer from its prefix cache. */
export type UsedPlaces = Set<number>;

/** Places where a window of `size` can begin in a text of `length`, both in tokens or both in characters. */
export function windowPlaces(length: number, size: number): number {
  return Math.max(0, length - size + 1);
}

/** A random place that is not used yet. `used` must leave one. */
function drawPlace(random: () => number, places: number, used: UsedPlaces): number {
  if (used.size >= places) throw new RangeError(`all ${places} windows of the text are used`);
  let place = Math.floor(random() * places);
  while (used.has(place)) place = (place + 1) % places;
  used.add(place);
  return place;
}

/** Windows of a tokenised text, at random places: real language, exact counts. */
export function textIdPrompts(count: number, tokens: number, ids: readonly number[], seed: number, used: UsedPlaces): number[][] {
  const random = randomStream(seed);
  return Array.from({ length: count }, () => {
    const from = drawPlace(random, windowPlaces(ids.length, tokens), used);
    return ids.slice(from, from + tokens);
  });
}

/** The token ids of a text by the server's own /tokenize (vLLM's and our form, then llama.cpp's), or null where it has none. */
export async function tokenizeByServer(client: ApiClient, model: string, text: string, signal?: AbortSignal): Promise<number[] | null> {
  for (const body of [{ model, prompt: text, add_special_tokens: false }, { content: text }]) {
    try {
      const reply = await client.post<{ tokens?: unknown }>('/tokenize', body, signal);
      const { tokens } = reply.body;
      if (Array.isArray(tokens) && tokens.length > 0 && tokens.every((t) => Number.isInteger(t))) return tokens as number[];
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
    }
  }
  return null;
}

/** Windows of so many characters, for servers that take text only. */
export function textPrompts(count: number, chars: number, text: string, seed: number, used: UsedPlaces): string[] {
  const random = randomStream(seed);
  return Array.from({ length: count }, () => {
    const from = drawPlace(random, windowPlaces(text.length, chars), used);
    return text.slice(from, from + chars);
  });
}

/** A few thousand characters tell the ratio to about a percent and fit every context. */
const calibrationChars = 2000;

/** How many characters of this text the server itself counts as one token. */
export async function charsPerTokenByServer(client: ApiClient, model: string, text: string, signal?: AbortSignal): Promise<number> {
  const sample = text.slice(0, calibrationChars);
  const { body } = await client.post<{ usage: { prompt_tokens: number } }>(
    '/v1/completions',
    { model, prompt: sample, max_tokens: 1 },
    signal,
  );
  return sample.length / Math.max(1, body.usage.prompt_tokens);
}
