import { limits } from '@switchyard/proto';
import { badCheckpoint } from '../checkpoint/bad-checkpoint.ts';
import type { ConfigReader } from '../checkpoint/config-reader.ts';
import { contextOf } from './rope.ts';

/** Sizes that every decoder of this kind has. Bounds are an order of magnitude above anything published: they keep a hostile config from asking for more. */
export interface DecoderConfig {
  hidden: number;
  layers: number;
  vocab: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  eps: number;
  maxContext: number;
  tiedEmbeddings: boolean;
}

const layersMax = 1024;
const headsMax = 4096;
const vocabMax = 8_388_608;
/** What a cache takes of a key or value. */
const headDimMax = 65_536;

export function readDecoderConfig(config: ConfigReader, fixed: { headDim?: number } = {}): DecoderConfig {
  config.choice('hidden_act', ['silu'], 'silu');
  const hidden = config.count('hidden_size', undefined, limits.hiddenMax);
  const heads = config.count('num_attention_heads', undefined, headsMax);
  const kvHeads = config.count('num_key_value_heads', heads, headsMax);
  if (heads % kvHeads !== 0) throw config.refusal('num_key_value_heads', `a divisor of num_attention_heads (${heads})`);
  return {
    hidden,
    layers: config.count('num_hidden_layers', undefined, layersMax),
    vocab: config.count('vocab_size', undefined, vocabMax),
    heads,
    kvHeads,
    headDim: fixed.headDim ?? headDim(config, hidden, heads),
    eps: config.positive('rms_norm_eps'),
    maxContext: contextOf(config),
    tiedEmbeddings: config.flag('tie_word_embeddings', false),
  };
}

function headDim(config: ConfigReader, hidden: number, heads: number): number {
  if (config.has('head_dim')) return config.count('head_dim', undefined, headDimMax);
  if (hidden % heads !== 0)
    throw badCheckpoint(config.path, `hidden_size ${hidden} is not a multiple of num_attention_heads ${heads}, and there is no head_dim`);
  return hidden / heads;
}

/** Number of experts and how many of them a token uses, each under the first of its names that the config has. */
export function readExpertCounts(
  config: ConfigReader,
  expertKeys: readonly string[],
  topKKeys: readonly string[] = ['num_experts_per_tok'],
): { experts: number; topK: number } {
  const experts = config.count(config.firstOf(expertKeys), undefined, limits.expertsMax);
  return { experts, topK: config.count(config.firstOf(topKKeys), undefined, Math.min(limits.topKMax, experts)) };
}
