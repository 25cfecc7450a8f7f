import path from 'node:path';
import { limits, type Plan, SwitchyardError } from '@switchyard/proto';
import { bounds } from './bounds.ts';
import { readJson } from './tokenizing/tokenizer-folder.ts';

/** What the coordinator must know of a checkpoint besides its text: where the experts are, how long a sequence may be, and how its authors sample. */
export interface ModelFolder {
  plan: Plan['model'];
  /** Experts of a token. */
  topK: number;
  /** Groups of experts that the router keeps a token inside a few of; empty where it does not. */
  grouping: { groups?: number };
  vocab: number;
  /** Values of a token's row; null when config.json does not say. */
  hidden: number | null;
  /** Tokens of one sequence; null when config.json does not say. */
  contextMax: number | null;
  /** config.json says that weights are stored as f32 or f16: workers, who see them, have the last word. */
  storedWide: boolean;
  /** Tokens that end an answer. */
  eosTokens: number[];
  sampling: SamplingDefaults;
}

/** From generation_config.json, where it says so; else neutral. */
export interface SamplingDefaults {
  temperature: number;
  topP: number;
  topK: number;
  minP: number;
  repetitionPenalty: number;
}

const topKKeys = ['num_experts_per_tok', 'experts_per_token', 'moe_topk', 'moe_k'];

/** First layer with experts where config.json does not say: what the family's own code takes. Else the first of all. */
const firstSparseLayer: Readonly<Record<string, number>> = { deepseek_v3: 3, glm4_moe: 1, ernie4_5_moe: 1 };

/** Tokens of one sequence where config.json has no max_position_embeddings: what the family's own code takes. */
const contextOfClass: Readonly<Record<string, number>> = {
  mixtral: 131_072,
  olmoe: 4096,
  qwen2_moe: 32_768,
  qwen3_moe: 32_768,
  granitemoe: 2048,
  granitemoeshared: 2048,
  phimoe: 131_072,
  deepseek_v2: 2048,
  deepseek_v3: 4096,
  gpt_oss: 131_072,
  dots1: 2048,
  glm4_moe: 131_072,
  minimax_m2: 196_608,
  ernie4_5_moe: 131_072,
  hunyuan_v1_moe: 2048,
};

/** Tokens that end an answer; published checkpoints name up to five. Each request carries them. */
const endingTokensMax = 64;

type Json = Record<string, unknown>;

/** @throws SwitchyardError `bad_checkpoint` naming file and field. */
export function readModelFolder(dir: string): ModelFolder {
  const file = path.join(dir, 'config.json');
  const config = readJson(file, limits.configBytesMax) as Json | null;
  if (config === null) throw new SwitchyardError('bad_checkpoint', `${file}: no such file`);
  const generationFile = path.join(dir, 'generation_config.json');
  const generation = (readJson(generationFile, limits.configBytesMax) ?? {}) as Json;
  const fields = new ConfigFields(file, config);
  const plan = moeShape(fields);
  const topK = fields.whole(topKKeys, 1, limits.topKMax) ?? fields.missing(topKKeys.join(' or '));
  const vocab = fields.whole(['vocab_size'], 1, 2 ** 31) ?? fields.missing('vocab_size');
  return {
    plan,
    topK,
    grouping: grouping(fields),
    vocab,
    hidden: fields.whole(['hidden_size', 'n_embd', 'd_model'], 1, limits.hiddenMax),
    contextMax: contextMax(fields, plan.type),
    storedWide: ['float32', 'float16'].includes(String(config.dtype ?? config.torch_dtype)),
    // What is outside the vocabulary never comes, and workers would refuse it.
    eosTokens: (new ConfigFields(generationFile, generation).tokens('eos_token_id') ?? fields.tokens('eos_token_id') ?? []).filter(
      (token) => token >= 0 && token < vocab,
    ),
    sampling: samplingDefaults(new ConfigFields(generationFile, generation)),
  };
}

/** Which layers have experts, and how many: the keys under which families say so. */
function moeShape(fields: ConfigFields): Plan['model'] {
  const type = fields.text('model_type') ?? fields.missing('model_type');
  const layers = fields.whole(['num_hidden_layers', 'num_layers', 'n_layer'], 1, 10_000) ?? fields.missing('num_hidden_layers');
  const expertKeys = ['num_local_experts', 'num_experts', 'n_routed_experts', 'moe_num_experts'];
  const experts = fields.whole(expertKeys, 1, limits.expertsMax) ?? fields.missing(expertKeys.join(' or '));
  const first = fields.whole(['first_k_dense_replace', 'moe_layer_start_index'], 0, 10_000) ?? firstSparseLayer[type] ?? 0;
  // -1: the last layer.
  const lastGiven = fields.whole(['moe_layer_end_index'], -1, 10_000) ?? -1;
  const last = lastGiven < 0 ? layers - 1 : Math.min(lastGiven, layers - 1);
  const every = fields.whole(['moe_layer_freq', 'decoder_sparse_step', 'moe_layer_interval'], 1, 10_000) ?? 1;
  // moe_layer_freq counts layers from 0, the others from 1.
  const countFrom = fields.whole(['moe_layer_freq'], 1, 10_000) === null ? 1 : 0;
  const dense = new Set(fields.wholeList('mlp_only_layers'));
  const moeLayers: number[] = [];
  for (let layer = first; layer <= last; layer++) if ((layer + countFrom) % every === 0 && !dense.has(layer)) moeLayers.push(layer);
  return { type, moeLayers, experts };
}

/** As workers have it, who know why: `contextOf` in worker/src/model/rope.ts. */
function contextMax(fields: ConfigFields, type: string): number | null {
  const given = fields.whole(['max_position_embeddings', 'n_positions'], 1, 2 ** 31) ?? contextOfClass[type] ?? null;
  const scaling = fields.nested('rope_parameters') ?? fields.nested('rope_scaling');
  if (given === null || scaling === null) return given;
  const original = [fields, scaling]
    .map((holder) => holder.whole(['original_max_position_embeddings'], 1, 2 ** 31))
    .find((n) => n !== null);
  const method = scaling.text('rope_type') ?? scaling.text('type');
  if (method !== 'yarn' && (method !== 'linear' || original === undefined)) return given;
  return Math.max(given, Math.floor((original ?? given) * (scaling.number('factor', [0, 2 ** 31]) ?? 1)));
}

/** DeepSeek's groups and SMILE's nodes. Where every group stays in the running there is nothing to gain from them. */
function grouping(fields: ConfigFields): { groups?: number } {
  const groups = fields.whole(['n_group', 'num_nodes'], 1, limits.expertsMax);
  const kept = fields.whole(['topk_group', 'num_nodes_per_tok'], 1, limits.expertsMax) ?? 1;
  return groups === null || groups < 2 || kept >= groups ? {} : { groups };
}

/** They are checked like a request's fields: a request that names none must not fail by them. */
function samplingDefaults(fields: ConfigFields): SamplingDefaults {
  const { sampling } = bounds;
  const repetitionPenalty = fields.number('repetition_penalty', sampling.repetitionPenalty) ?? 1;
  if (fields.flag('do_sample') === false) return { temperature: 0, topP: 1, topK: 0, minP: 0, repetitionPenalty };
  return {
    temperature: fields.number('temperature', sampling.temperature) ?? 1,
    topP: fields.number('top_p', sampling.topP) ?? 1,
    topK: Math.max(0, fields.whole(['top_k'], ...sampling.topK) ?? 0),
    minP: fields.number('min_p', sampling.minP) ?? 0,
    repetitionPenalty,
  };
}

/** Some families repeat one value for every layer. */
function uniform(value: unknown): unknown {
  return Array.isArray(value) && value.length > 0 && value.every((item) => item === value[0]) ? value[0] : value;
}

class ConfigFields {
  readonly #file: string;
  readonly #config: Json;

  constructor(file: string, config: Json) {
    this.#file = file;
    this.#config = config;
  }

  /** The first of the keys that is there; null when none is. */
  whole(keys: readonly string[], min: number, max: number): number | null {
    const key = keys.find((name) => this.#config[name] !== undefined && this.#config[name] !== null);
    if (key === undefined) return null;
    const value = uniform(this.#config[key]);
    if (!Number.isInteger(value) || (value as number) < min || (value as number) > max)
      throw new SwitchyardError(
        'bad_checkpoint',
        `${this.#file}: ${key} is ${JSON.stringify(value)}; a whole number from ${min} to ${max} is needed`,
      );
    return value as number;
  }

  nested(key: string): ConfigFields | null {
    const value = this.#config[key] ?? null;
    if (value === null) return null;
    if (typeof value === 'object' && !Array.isArray(value)) return new ConfigFields(`${this.#file}: ${key}`, value as Json);
    throw new SwitchyardError('bad_checkpoint', `${this.#file}: ${key} must be an object`);
  }

  number(key: string, [min, max]: readonly [number, number]): number | null {
    const value = this.#config[key] ?? null;
    if (value === null || (typeof value === 'number' && value >= min && value <= max)) return value;
    throw new SwitchyardError(
      'bad_checkpoint',
      `${this.#file}: ${key} is ${JSON.stringify(value)}; a number from ${min} to ${max} is needed`,
    );
  }

  flag(key: string): boolean | null {
    const value = this.#config[key] ?? null;
    if (value === null || typeof value === 'boolean') return value;
    throw new SwitchyardError('bad_checkpoint', `${this.#file}: ${key} is ${JSON.stringify(value)}; true or false is needed`);
  }

  text(key: string): string | null {
    const value = this.#config[key];
    return typeof value === 'string' && value !== '' ? value : null;
  }

  wholeList(key: string): number[] {
    const value = this.#config[key] ?? [];
    if (!Array.isArray(value) || value.some((item) => !Number.isInteger(item)))
      throw new SwitchyardError('bad_checkpoint', `${this.#file}: ${key} must be a list of whole numbers`);
    return value as number[];
  }

  /** One token id or several; null where the key is not there. */
  tokens(key: string): number[] | null {
    const value = this.#config[key] ?? null;
    if (value === null) return null;
    const list = Array.isArray(value) ? value : [value];
    if (list.length <= endingTokensMax && list.every(Number.isInteger)) return list;
    const wrong = list.length > endingTokensMax ? `has ${list.length} entries` : `is ${JSON.stringify(value).slice(0, 100)}`;
    throw new SwitchyardError(
      'bad_checkpoint',
      `${this.#file}: ${key} ${wrong}; a token id or a list of at most ${endingTokensMax} is needed`,
    );
  }

  missing(key: string): never {
    throw new SwitchyardError('bad_checkpoint', `${this.#file}: ${key} is missing`);
  }
}
