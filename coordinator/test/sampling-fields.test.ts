import { limits } from '@switchyard/proto';
import { describe, expect, it } from 'vitest';
import { readCompletionRequest } from '../src/api/completion-request.ts';
import { Fields } from '../src/api/fields.ts';
import { type CommonSpec, type ModelBounds, readCommonFields, refuseUnsupported, samplingOfChoice } from '../src/api/sampling-fields.ts';
import { readStreamFields } from '../src/api/stream-fields.ts';
import { bounds } from '../src/bounds.ts';

const defaults = { temperature: 0.7, topP: 0.8, topK: 20, minP: 0.1, repetitionPenalty: 1.05 };
const model: ModelBounds = { vocab: 100, eosTokens: [2, 3], defaults, sequencesMax: 128, replaying: true };

const read = (body: Record<string, unknown>, changes: Partial<ModelBounds> = {}) =>
  readCommonFields(new Fields(body), { ...model, ...changes }, 1);
const refusalOf = (work: () => unknown): string => {
  try {
    work();
  } catch (error) {
    return (error as Error).message;
  }
  return 'taken';
};

describe('a number in a request', () => {
  const numbers: [string, number, number, (spec: CommonSpec) => unknown][] = [
    ['n', 1, limits.choicesMax, ({ n }) => n],
    ['max_tokens', 1, 2 ** 31, ({ maxTokens }) => maxTokens],
    ['max_completion_tokens', 1, 2 ** 31, ({ maxTokens }) => maxTokens],
    ['min_tokens', 0, 2 ** 31, ({ minTokens }) => minTokens],
    ['temperature', 0, 2, ({ sampling }) => sampling.temperature],
    ['top_p', 0, 1, ({ sampling }) => sampling.topP],
    ['min_p', 0, 1, ({ sampling }) => sampling.minP],
    ['repetition_penalty', 0.01, 10, ({ sampling }) => sampling.repetitionPenalty],
    ['presence_penalty', -2, 2, ({ sampling }) => sampling.presencePenalty],
    ['frequency_penalty', -2, 2, ({ sampling }) => sampling.frequencyPenalty],
    ['replay_sequence', 0, 2 ** 31, ({ replaySequence }) => replaySequence],
  ];

  it.each(numbers)('is taken from its least to its most, and refused by name beyond: %s', (name, min, max, value) => {
    for (const number of [min, max]) expect(value(read({ [name]: number }))).toBe(number);
    for (const number of [min - 0.001, min - 1, max + 0.001, max + 1, Number.POSITIVE_INFINITY])
      expect(refusalOf(() => read({ [name]: number }))).toBe(`${name} is ${number}; it must be from ${min} to ${max}`);
    expect(refusalOf(() => read({ [name]: '1' }))).toBe(`${name} is the string "1"; a number is needed`);
  });

  it.each(['n', 'max_tokens', 'max_completion_tokens', 'min_tokens', 'top_k', 'seed', 'replay_sequence', 'best_of'])(
    'is whole: %s',
    (name) => {
      expect(refusalOf(() => read({ [name]: 1.5 }))).toBe(`${name} is 1.5; a whole number is needed`);
    },
  );

  it('that is absent or null is what the model has', () => {
    for (const body of [{}, { temperature: null, top_p: null, top_k: null, min_p: null, repetition_penalty: null }]) {
      const { sampling, ...rest } = read(body);
      expect(sampling).toMatchObject({ ...defaults, presencePenalty: 0, frequencyPenalty: 0, biasToken: [], biasValue: [] });
      expect(rest).toEqual({
        n: 1,
        maxTokens: null,
        maxTokensField: 'max_tokens',
        minTokens: 0,
        stopTokens: [2, 3],
        clientStopTokens: 0,
        stopStrings: [],
        includeStop: false,
        skipSpecial: true,
        returnTokenIds: false,
        wantTraffic: false,
        replaySequence: null,
      });
    }
  });

  it('of tokens that must be written needs one that does not end the answer', () => {
    const all = Array.from({ length: 100 }, (_, token) => token);
    const told = 'min_tokens is 1, but each of the 100 tokens of this model ends the answer';
    expect(refusalOf(() => read({ min_tokens: 1, stop_token_ids: all }))).toBe(told);
    expect(refusalOf(() => read({ min_tokens: 1, stop_token_ids: all.slice(4) }, { eosTokens: [0, 1, 2, 3, 4] }))).toBe(told);
    expect(read({ min_tokens: 0, stop_token_ids: all }).minTokens).toBe(0);
    expect(read({ min_tokens: 1, stop_token_ids: [...all.slice(4), 99, 99, 99, 99] }).minTokens).toBe(1);
    expect(read({ min_tokens: 1, ignore_eos: true, stop_token_ids: all.slice(4) }, { eosTokens: [0, 1, 2, 3] }).minTokens).toBe(1);
  });

  it('of choices is at most what may run and wait', () => {
    expect(read({ n: 3 }, { sequencesMax: 3 }).n).toBe(3);
    expect(refusalOf(() => read({ n: 4 }, { sequencesMax: 3 }))).toBe('n is 4; it must be from 1 to 3');
  });

  it.each([
    [-1, 0],
    [0, 0],
    [1, 1],
    [2 ** 31, 2 ** 31],
  ])('of top_k may be -1 for none: %i', (given, topK) => {
    expect(read({ top_k: given }).sampling.topK).toBe(topK);
    expect(refusalOf(() => read({ top_k: -2 }))).toContain('top_k is -2');
  });

  it.each([
    [0, 0n],
    [7, 7n],
    [-1, 0xffff_ffff_ffff_ffffn],
    [-(2 ** 63), 0x8000_0000_0000_0000n],
  ])('of a seed is one of 64 bits: %d', (given, seed) => {
    expect(read({ seed: given }).sampling.seed).toBe(seed);
  });

  it('of tokens has a newer name, which counts where both are given', () => {
    const asked = { max_tokens: 5, max_completion_tokens: 4 };
    expect(read(asked)).toMatchObject({ maxTokens: 4, maxTokensField: 'max_completion_tokens' });
    expect(read({ max_tokens: 5 })).toMatchObject({ maxTokens: 5, maxTokensField: 'max_tokens' });
  });

  it('that says where a replayed trace begins is of servers that replay one', () => {
    expect(refusalOf(() => read({ replay_sequence: 0 }, { replaying: false }))).toContain('without --replay-routing');
    expect(read({}, { replaying: false }).replaySequence).toBeNull();
  });
});

describe('the seeds of choices', () => {
  it("begin with the request's own and never meet", () => {
    const { sampling } = read({ seed: 2 ** 63 });
    expect(samplingOfChoice(sampling, 0)).toBe(sampling);
    const seeds = Array.from({ length: limits.choicesMax }, (_, choice) => samplingOfChoice(sampling, choice).seed);
    expect(new Set(seeds).size).toBe(limits.choicesMax);
    for (const seed of seeds) expect(BigInt.asUintN(64, seed)).toBe(seed);
  });
});

describe('what ends an answer', () => {
  it.each([
    [{ stop_token_ids: [5, 2] }, [5, 2, 3], 2],
    [{ stop_token_ids: [5, 2], ignore_eos: true }, [5, 2], 2],
    [{ ignore_eos: true }, [], 0],
    [{ stop_token_ids: [0, 99] }, [0, 99, 2, 3], 2],
  ])('is what the client names, before what the model does: %j', (body, stopTokens, clientStopTokens) => {
    expect(read(body)).toMatchObject({ stopTokens, clientStopTokens });
  });

  it.each([[-1], [100], [0.5], ['5'], [null]])('is a token of the vocabulary: %j', (token) => {
    expect(refusalOf(() => read({ stop_token_ids: [1, token] }))).toBe(
      `stop_token_ids has token id ${JSON.stringify(token)}; it must be a whole number from 0 to 99`,
    );
  });

  it('has its bounds', () => {
    const most = Array<number>(bounds.stopTokensMax).fill(1);
    expect(read({ stop_token_ids: most }).clientStopTokens).toBe(bounds.stopTokensMax);
    expect(refusalOf(() => read({ stop_token_ids: [...most, 1] }))).toBe(
      `stop_token_ids has ${bounds.stopTokensMax + 1} entries; the limit is 128`,
    );
    const stop = Array<string>(limits.stopStringsMax).fill('x'.repeat(limits.stopStringLengthMax));
    expect(read({ stop }).stopStrings).toEqual(stop);
    expect(refusalOf(() => read({ stop: [...stop, 'x'] }))).toBe('stop has 17 strings; the limit is 16');
    expect(refusalOf(() => read({ stop: 'x'.repeat(limits.stopStringLengthMax + 1) }))).toBe(
      'stop has a string of 257 characters; the limit is 256',
    );
    expect(read({ stop: 'x' }).stopStrings).toEqual(['x']);
  });

  it.each(['\ud83d', 'a\ud83d', '\ude42b'])('is made of whole characters: %j', (stop) => {
    expect(refusalOf(() => read({ stop: ['🙂', stop] }))).toBe(
      `stop has ${JSON.stringify(stop)}, in which half of a surrogate pair stands alone`,
    );
    expect(read({ stop: ['🙂', 'é🙂'] }).stopStrings).toEqual(['🙂', 'é🙂']);
  });
});

describe('logit_bias', () => {
  it('gives tokens of the vocabulary values from -100 to 100', () => {
    const { biasToken, biasValue } = read({ logit_bias: { 0: -100, 99: 100, 10: 0.5 } }).sampling;
    expect([biasToken, biasValue]).toEqual([
      [0, 10, 99],
      [-100, 0.5, 100],
    ]);
  });

  it.each(['100', '-1', '1.0', ' 1', '', 'x', '1e1', '10000000000'])('names no other token: %j', (key) => {
    expect(refusalOf(() => read({ logit_bias: { [key]: 1 } }))).toBe(
      `logit_bias has the key ${JSON.stringify(key)}; token ids from 0 to 99 are needed`,
    );
  });

  it.each(['07', '00'])('names a token once: %j beside its number', (key) => {
    expect(refusalOf(() => read({ logit_bias: { [Number(key)]: 100, [key]: 100 } }))).toContain(`has the key "${key}"`);
  });

  it.each([
    [100.001, '100.001'],
    [-101, '-101'],
    [Number.POSITIVE_INFINITY, 'Infinity'],
    ['1', '"1"'],
    [null, 'null'],
  ])('gives no other value: %j', (value, told) => {
    expect(refusalOf(() => read({ logit_bias: { 5: value } }))).toBe(
      `logit_bias gives ${told} to token 5; numbers from -100 to 100 are allowed`,
    );
  });

  it('has so many entries at most', () => {
    const entries = (count: number) => ({ logit_bias: Object.fromEntries(Array.from({ length: count }, (_, token) => [token, 1])) });
    expect(read(entries(limits.logitBiasMax), { vocab: 5000 }).sampling.biasToken).toHaveLength(limits.logitBiasMax);
    expect(refusalOf(() => read(entries(limits.logitBiasMax + 1), { vocab: 5000 }))).toBe('logit_bias has 1025 entries; the limit is 1024');
  });
});

describe('fields that would change the answer', () => {
  it.each([
    [{ response_format: { type: 'json_object' } }, 'response_format type "json_object" is not supported; only "text" is'],
    [{ use_beam_search: true }, 'use_beam_search is not supported: beam search is not offered'],
    [{ prompt_logprobs: 1 }, 'prompt_logprobs is not supported: use /v1/completions with echo and logprobs'],
    [{ prompt_embeds: 'x' }, 'prompt_embeds is not supported: prompts are text or token ids'],
    ...['guided_json', 'guided_regex', 'guided_choice', 'guided_grammar', 'structured_outputs', 'grammar', 'json_schema'].map(
      (name): [Record<string, unknown>, string] => [{ [name]: 'x' }, `${name} is not supported: constrained decoding is not offered`],
    ),
    [{ response_format: { type: 'text' }, use_beam_search: false, grammar: null }, 'taken'],
  ])('are refused by name: %j', (body, told) => {
    expect(refusalOf(() => refuseUnsupported(new Fields(body)))).toBe(told);
  });
});

describe('how an answer is streamed', () => {
  it.each([
    [{}, [false, false, false]],
    [{ stream: true }, [true, false, false]],
    [{ stream: true, stream_options: { include_usage: true } }, [true, true, false]],
    [{ stream: true, stream_options: { continuous_usage_stats: true } }, [true, false, true]],
  ])('is said by %j', (body, [stream, includeUsage, continuousUsage]) => {
    expect(readStreamFields(new Fields(body))).toEqual({ stream, includeUsage, continuousUsage });
  });
});

describe('the prompts of a completion', () => {
  const prompts = (prompt: unknown, rest: Record<string, unknown> = {}) =>
    readCompletionRequest(new Fields({ prompt, ...rest }), model).prompts;

  it.each([
    ['a', ['a']],
    [
      ['a', [1, 2]],
      ['a', [1, 2]],
    ],
    [[0, 99], [[0, 99]]],
  ])('are text, ids or lists of either: %j', (given, read) => {
    expect(prompts(given)).toEqual(read);
  });

  it('make as many sequences as one request may have, together with n', () => {
    expect(prompts(Array(limits.promptsMax).fill('a'), { n: 2 })).toHaveLength(limits.promptsMax);
    expect(refusalOf(() => prompts(Array(limits.promptsMax + 1).fill('a')))).toBe('prompt has 65 prompts; the limit is 64');
    expect(refusalOf(() => prompts(Array(43).fill('a'), { n: 3 }))).toBe('n 3 and 43 prompts make 129 sequences; the limit is 128');
  });

  it.each([
    [undefined, 0, false],
    [0, 0, true],
    [limits.topLogprobsMax, limits.topLogprobsMax, true],
  ])('have log-probabilities where a number of alternatives is given: %j', (logprobs, topLogprobs, wantLogprob) => {
    expect(readCompletionRequest(new Fields({ prompt: 'a', logprobs }), model)).toMatchObject({ topLogprobs, wantLogprob });
  });

  it('are echoed where that is asked for, and have the tokens that the model wants around a text unless told not to', () => {
    const read = (body: Record<string, unknown>) => readCompletionRequest(new Fields({ prompt: 'a', ...body }), model);
    expect(read({})).toMatchObject({ echo: false, addSpecialTokens: true });
    expect(read({ echo: true, add_special_tokens: false })).toMatchObject({ echo: true, addSpecialTokens: false });
  });

  it('may be scored, with no token of an answer', () => {
    expect(readCompletionRequest(new Fields({ prompt: 'a', max_tokens: 0 }), model).common.maxTokens).toBe(0);
  });
});
