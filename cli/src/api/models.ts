import { CommandFailure } from '../failure.ts';
import type { ApiClient } from './client.ts';
import { ForeignAnswer } from './json-answer.ts';

export interface ModelCard {
  id: string;
  owned_by?: string;
  /** vLLM's and our name for the context length. */
  max_model_len?: number | null;
  /** Ours: what decides the bits of answers. */
  numeric_class?: string;
  /** llama.cpp's. */
  meta?: { n_ctx_train?: number; n_vocab?: number } | null;
}

/** The model asked for, or the only one served. */
export async function selectModel(client: ApiClient, wanted: string | null, signal?: AbortSignal): Promise<ModelCard> {
  return pick(client, await modelCards(client, signal), wanted);
}

/** The model of that name, or else the first: another server may have the same under another name. */
export async function preferModel(client: ApiClient, name: string, signal?: AbortSignal): Promise<ModelCard> {
  const cards = await modelCards(client, signal);
  return pick(client, cards, cards.some(({ id }) => id === name) ? name : null);
}

function pick(client: ApiClient, cards: readonly ModelCard[], wanted: string | null): ModelCard {
  const card = wanted === null ? cards[0] : cards.find((c) => c.id === wanted);
  if (!card)
    throw new CommandFailure(
      wanted === null
        ? `${client.baseUrl} serves no model`
        : `${client.baseUrl} does not serve ${wanted}: it has ${cards.map((c) => c.id).join(', ')}`,
    );
  return card;
}

async function modelCards(client: ApiClient, signal: AbortSignal | undefined): Promise<ModelCard[]> {
  const { body } = await client.get<{ data?: unknown }>('/v1/models', signal);
  if (Array.isArray(body.data) && body.data.every(isCard)) return body.data;
  throw new ForeignAnswer(`the answer of ${client.baseUrl}/v1/models is no list of models, each with an id`);
}

function isCard(card: { id?: unknown } | null): card is ModelCard {
  return typeof card?.id === 'string';
}
