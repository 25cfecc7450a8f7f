import type { ApiClient } from '../api/client.ts';
import { ApiError } from '../api/client.ts';
import { countOf, ForeignAnswer } from '../api/json-answer.ts';
import type { ModelCard } from '../api/models.ts';
import { randomStream } from './random-stream.ts';

/** Low ids are control tokens in most vocabularies; a prompt of them measures something else. */
const firstOrdinaryId = 256;
/** Ids below this exist in every vocabulary that is served in practice. */
const vocabDefault = 4096;

/** How many ids a model has, as far as its server tells. */
export function vocabOf(card: ModelCard): number {
  return countOf(card.meta?.n_vocab) ?? vocabDefault;
}

/**
 * Makes prompts of `tokens` tokens, one a call (a million at once would not fit), all different from their first token on, so that no server answers from its prefix
 * cache; the first `sharedTokens` are the same in all, to measure that cache.
 */
export function randomIdPrompts(tokens: number, sharedTokens: number, vocab: number, seed: number): () => number[] {
  const random = randomStream(seed);
  // A vocabulary of a few hundred has ordinary ones among those.
  const first = Math.min(firstOrdinaryId, vocab >> 1);
  const drawId = () => first + Math.floor(random() * (vocab - first));
  const shared = Array.from({ length: Math.min(sharedTokens, tokens) }, drawId);
  return () => [...shared, ...Array.from({ length: tokens - shared.length }, drawId)];
}

/** Where windows of a text began in this run: none begins there again, or a server would answer from its prefix cache. */
export type UsedPlaces = Set<number>;

/** Places where a window of `size` can begin in a text of `length`, both in tokens or both in characters. */
export function windowPlaces(length: number, size: number): number {
  return Math.max(0, length - size + 1);
}

/** The same for windows of characters, none of which begins in the middle of one that JavaScript counts as two. */
export function textPlaces(text: string, chars: number): number {
  let places = windowPlaces(text.length, chars);
  for (let place = places - 1; place >= 0; place--) if (isInsidePair(text, place)) places--;
  return places;
}

/** Whether a cut there would leave two halves of a character, which are none. */
function isInsidePair(text: string, place: number): boolean {
  return (text.charCodeAt(place) & 0xfc00) === 0xdc00 && (text.charCodeAt(place - 1) & 0xfc00) === 0xd800;
}

/** A random place that is not used yet and at which a window may begin. `used` must leave one. */
function drawPlace(random: () => number, places: number, used: UsedPlaces, mayBegin: (place: number) => boolean = () => true): number {
  let place = Math.floor(random() * places);
  for (;;) {
    if (used.size >= places) throw new RangeError(`all ${places} windows of the text are used`);
    while (used.has(place)) place = (place + 1) % places;
    used.add(place);
    if (mayBegin(place)) return place;
  }
}

/** Windows of a tokenised text, at random places: real language, exact counts. */
export function textIdPrompts(tokens: number, ids: readonly number[], seed: number, used: UsedPlaces): () => number[] {
  const random = randomStream(seed);
  return () => {
    const from = drawPlace(random, windowPlaces(ids.length, tokens), used);
    return ids.slice(from, from + tokens);
  };
}

/** What a server says of a path that it does not have. */
const absent: ReadonlySet<number> = new Set([404, 405, 501]);
/** And of a body that it does not understand: its `/tokenize` is none of the forms that are known here. */
const misunderstood: ReadonlySet<number> = new Set([400, 422]);

/**
 * The token ids of a text by the server's own /tokenize (vLLM's and our form, then llama.cpp's), or null where it has none.
 *
 * @throws ApiError where it has one that refuses: a key that does not fit or a queue that is full says nothing of what there is
 */
export async function tokenizeByServer(client: ApiClient, model: string, text: string, signal?: AbortSignal): Promise<number[] | null> {
  let refusal: ApiError | null = null;
  for (const body of [{ model, prompt: text, add_special_tokens: false }, { content: text }]) {
    try {
      const reply = await client.post<{ tokens?: unknown }>('/tokenize', body, signal);
      const { tokens } = reply.body;
      if (Array.isArray(tokens) && tokens.length > 0 && tokens.every((t) => Number.isInteger(t))) return tokens as number[];
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (absent.has(error.status)) return null;
      if (!misunderstood.has(error.status)) refusal ??= error;
    }
  }
  if (refusal !== null) throw refusal;
  return null;
}

/** Windows of so many characters (one more where the last would be cut in two), for servers that take text only. */
export function textPrompts(chars: number, text: string, seed: number, used: UsedPlaces): () => string {
  const random = randomStream(seed);
  return () => {
    const from = drawPlace(random, windowPlaces(text.length, chars), used, (place) => !isInsidePair(text, place));
    return wholeSlice(text, from, from + chars);
  };
}

function wholeSlice(text: string, from: number, to: number): string {
  return text.slice(from, isInsidePair(text, to) ? to + 1 : to);
}

/** A few thousand characters tell the ratio to about a percent and fit every context. */
const calibrationChars = 2000;

/** How many characters of this text the server itself counts as one token. */
export async function charsPerTokenByServer(client: ApiClient, model: string, text: string, signal?: AbortSignal): Promise<number> {
  const sample = wholeSlice(text, 0, calibrationChars);
  const { body } = await client.post<{ usage?: { prompt_tokens?: unknown } | null }>(
    '/v1/completions',
    { model, prompt: sample, max_tokens: 1 },
    signal,
  );
  const tokens = countOf(body.usage?.prompt_tokens);
  if (tokens === null) throw new ForeignAnswer(`${client.baseUrl} does not tell how many tokens a prompt has: --text cannot be cut for it`);
  return sample.length / Math.max(1, tokens);
}
