import { randomBytes } from 'node:crypto';
import { limits, type Sampling } from '@switchyard/proto';
import { bounds } from '../bounds.ts';
import type { SamplingDefaults } from '../model-folder.ts';
import type { AnswerSpec } from '../requests/answer.ts';
import { type Fields, quoted, shown } from './fields.ts';

/** What fields are checked against. */
export interface ModelBounds {
  vocab: number;
  eosTokens: readonly number[];
  defaults: SamplingDefaults;
  /** Sequences of one request. */
  sequencesMax: number;
  /** A routing trace is replayed, so requests may say which of its sequences. */
  replaying: boolean;
}

/** The part of an answer's specification that chat and plain completions read alike. */
export type CommonSpec = Pick<
  AnswerSpec,
  | 'minTokens'
  | 'sampling'
  | 'stopTokens'
  | 'clientStopTokens'
  | 'stopStrings'
  | 'includeStop'
  | 'skipSpecial'
  | 'returnTokenIds'
  | 'wantTraffic'
  | 'replaySequence'
> & { n: number; maxTokens: number | null; maxTokensField: 'max_tokens' | 'max_completion_tokens' };

/**
 * Sampling and stopping, with OpenAI's names and the extras that clients of vLLM and llama.cpp send.
 *
 * @param maxTokensMin 1 for chat; a plain completion may ask for none, to score its prompt
 */
export function readCommonFields(fields: Fields, model: ModelBounds, maxTokensMin: number): CommonSpec {
  const { defaults } = model;
  const n = fields.whole('n', 1, Math.min(limits.choicesMax, model.sequencesMax)) ?? 1;
  // All that are computed are answered: nothing is chosen among more.
  if ((fields.whole('best_of', 1, 2 ** 31) ?? n) !== n) throw fields.invalid('best_of', `is supported only where it is n, ${n}: use n`);
  const ignoreEos = fields.flag('ignore_eos') ?? false;
  const clientStops = readStopTokens(fields, model.vocab);
  const bias = readLogitBias(fields, model.vocab);
  const maxTokensOld = fields.whole('max_tokens', maxTokensMin, 2 ** 31);
  const maxTokens = fields.whole('max_completion_tokens', maxTokensMin, 2 ** 31);
  const minTokens = fields.whole('min_tokens', 0, 2 ** 31) ?? 0;
  const stopTokens = [...clientStops, ...(ignoreEos ? [] : model.eosTokens.filter((token) => !clientStops.includes(token)))];
  // Before the least is written nothing that ends an answer may be chosen, and here there is nothing else.
  if (minTokens > 0 && new Set(stopTokens).size >= model.vocab)
    throw fields.invalid('min_tokens', `is ${minTokens}, but each of the ${model.vocab} tokens of this model ends the answer`);
  return {
    n,
    maxTokens: maxTokens ?? maxTokensOld,
    maxTokensField: maxTokens === null ? 'max_tokens' : 'max_completion_tokens',
    minTokens,
    sampling: {
      temperature: fields.number('temperature', ...bounds.sampling.temperature) ?? defaults.temperature,
      topP: fields.number('top_p', ...bounds.sampling.topP) ?? defaults.topP,
      topK: Math.max(0, fields.whole('top_k', ...bounds.sampling.topK) ?? defaults.topK),
      minP: fields.number('min_p', ...bounds.sampling.minP) ?? defaults.minP,
      repetitionPenalty: fields.number('repetition_penalty', ...bounds.sampling.repetitionPenalty) ?? defaults.repetitionPenalty,
      presencePenalty: fields.number('presence_penalty', -2, 2) ?? 0,
      frequencyPenalty: fields.number('frequency_penalty', -2, 2) ?? 0,
      seed: readSeed(fields),
      biasToken: bias.tokens,
      biasValue: bias.values,
    },
    stopTokens,
    clientStopTokens: clientStops.length,
    stopStrings: readStopStrings(fields),
    includeStop: fields.flag('include_stop_str_in_output') ?? false,
    skipSpecial: fields.flag('skip_special_tokens') ?? true,
    returnTokenIds: fields.flag('return_token_ids') ?? false,
    wantTraffic: fields.flag('return_traffic') ?? false,
    replaySequence: readReplaySequence(fields, model),
  };
}

/** The sampling of the i-th choice: choices differ by their seed alone, the first has the request's. */
export function samplingOfChoice(sampling: Sampling, choice: number): Sampling {
  // The odd constant of splitmix64: seeds of one request never meet.
  const seed = BigInt.asUintN(64, sampling.seed + BigInt(choice) * 0x9e3779b97f4a7c15n);
  return choice === 0 ? sampling : { ...sampling, seed };
}

function readReplaySequence(fields: Fields, { replaying }: ModelBounds): number | null {
  if (!replaying) fields.refuse('replay_sequence', 'the server was started without --replay-routing');
  return fields.whole('replay_sequence', 0, 2 ** 31);
}

function readSeed(fields: Fields): bigint {
  const given = fields.whole('seed', -(2 ** 63), 2 ** 64);
  return given === null ? randomBytes(8).readBigUInt64LE() : BigInt.asUintN(64, BigInt(given));
}

const LONE_SURROGATE = /\p{Surrogate}/u;

function readStopStrings(fields: Fields): string[] {
  const given = fields.raw('stop');
  const stops: unknown = given === null ? [] : typeof given === 'string' ? [given] : given;
  if (!Array.isArray(stops)) throw fields.wrong('stop', given, 'a string or a list of strings is needed');
  if (stops.length > limits.stopStringsMax)
    throw fields.invalid('stop', `has ${stops.length} strings; the limit is ${limits.stopStringsMax}`);
  return stops.map((stop: unknown, i) => {
    if (typeof stop !== 'string') throw fields.wrong(`stop[${i}]`, stop, 'a string is needed');
    if (stop === '') throw fields.invalid('stop', 'has an empty string, which every text contains');
    if (stop.length > limits.stopStringLengthMax)
      throw fields.invalid('stop', `has a string of ${stop.length} characters; the limit is ${limits.stopStringLengthMax}`);
    // It would end a text in the middle of a character.
    if (LONE_SURROGATE.test(stop)) throw fields.invalid('stop', `has ${quoted(stop)}, in which half of a surrogate pair stands alone`);
    return stop;
  });
}

function readStopTokens(fields: Fields, vocab: number): number[] {
  const given = fields.list('stop_token_ids', bounds.stopTokensMax) ?? [];
  return given.map((token) => checkToken(fields, 'stop_token_ids', token, vocab));
}

export function checkToken(fields: Fields, name: string, token: unknown, vocab: number): number {
  if (!Number.isInteger(token) || (token as number) < 0 || (token as number) >= vocab)
    throw fields.invalid(name, `has token id ${shown(token)}; it must be a whole number from 0 to ${vocab - 1}`);
  return token as number;
}

/** As JavaScript writes a number: "07" beside "7" would give a token two values. */
const TOKEN_KEY = /^(?:0|[1-9]\d{0,9})$/;

function readLogitBias(fields: Fields, vocab: number): { tokens: number[]; values: number[] } {
  const given = Object.entries(fields.object('logit_bias') ?? {});
  if (given.length > limits.logitBiasMax)
    throw fields.invalid('logit_bias', `has ${given.length} entries; the limit is ${limits.logitBiasMax}`);
  const tokens: number[] = [];
  const values: number[] = [];
  for (const [key, value] of given) {
    if (!TOKEN_KEY.test(key) || Number(key) >= vocab)
      throw fields.invalid('logit_bias', `has the key ${quoted(key)}; token ids from 0 to ${vocab - 1} are needed`);
    if (typeof value !== 'number' || !(value >= -100 && value <= 100))
      throw fields.invalid('logit_bias', `gives ${shown(value)} to token ${key}; numbers from -100 to 100 are allowed`);
    tokens.push(Number(key));
    values.push(value);
  }
  return { tokens, values };
}

/** Fields that mean something elsewhere and would change the answer: refused by name. */
export function refuseUnsupported(fields: Fields): void {
  const format = fields.object('response_format');
  if (format !== null && format.type !== 'text')
    throw fields.invalid('response_format', `type ${shown(format.type)} is not supported; only "text" is`);
  const constrained = ['guided_json', 'guided_regex', 'guided_choice', 'guided_grammar', 'structured_outputs', 'grammar', 'json_schema'];
  for (const name of constrained) fields.refuse(name, 'constrained decoding is not offered');
  if (fields.flag('use_beam_search') === true) throw fields.invalid('use_beam_search', 'is not supported: beam search is not offered');
  fields.refuse('prompt_logprobs', 'use /v1/completions with echo and logprobs');
  fields.refuse('prompt_embeds', 'prompts are text or token ids');
  fields.ignore(
    'user',
    'store',
    'service_tier',
    'priority',
    'request_id',
    'safety_identifier',
    'prompt_cache_key',
    'metadata',
    'model',
    'stream',
    'stream_options',
  );
}
