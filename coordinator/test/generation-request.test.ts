import { describe, expect, it } from 'vitest';
import { Fields } from '../src/api/fields.ts';
import { answerSpecs, type GenerationRequest } from '../src/api/generation-request.ts';
import { readCommonFields } from '../src/api/sampling-fields.ts';
import { DetailedError } from '../src/detailed-error.ts';

const defaults = { temperature: 1, topP: 1, topK: 0, minP: 0, repetitionPenalty: 1 };
const model = { vocab: 100, eosTokens: [2], defaults, sequencesMax: 128, replaying: false };
const caller = { tenant: 't', domain: 'd' };

function request(body: Record<string, unknown>, promptTokens: number[], changes: Partial<GenerationRequest> = {}): GenerationRequest {
  const common = readCommonFields(new Fields(body), model, 0);
  const prompts = promptTokens.map((length) => new Int32Array(length).fill(7));
  const streaming = { stream: false, includeUsage: false, continuousUsage: false };
  return {
    common,
    streaming,
    prompts,
    prediction: new Int32Array(0),
    promptField: 'prompt',
    echo: null,
    wantLogprob: false,
    topLogprobs: 0,
    ...changes,
  };
}

describe('the room that a context of 10 has', () => {
  it('bounds what is expected of an answer, too', () => {
    const expecting = (tokens: number) => answerSpecs(request({}, [4], { prediction: new Int32Array(tokens).fill(7) }), caller, 10);
    expect(expecting(10)[0].prediction).toHaveLength(10);
    expect(() => expecting(11)).toThrow('the prediction has 11 tokens; the context has 10');
  });

  it.each([
    [{}, 4, 6],
    [{}, 9, 1],
    [{ max_tokens: 6 }, 4, 6],
    [{ max_tokens: 1 }, 9, 1],
    [{ max_tokens: 0 }, 10, 0],
    [{ min_tokens: 6 }, 4, 6],
    [{ min_tokens: 3, max_tokens: 3 }, 4, 3],
  ])('is enough: %j after %i tokens', (body, prompt, maxTokens) => {
    expect(answerSpecs(request(body, [prompt]), caller, 10)[0].maxTokens).toBe(maxTokens);
  });

  it.each([
    [{}, 10, 'prompt', 'the prompt has 10 tokens; the context has 10 and must also hold the answer'],
    [{ max_tokens: 1 }, 10, 'prompt', 'the prompt has 10 tokens; the context has 10 and must also hold the answer'],
    [{ max_tokens: 0 }, 11, 'prompt', 'the prompt has 11 tokens; the context has 10 and must also hold the answer'],
    [{ max_tokens: 7 }, 4, 'max_tokens', '4 tokens of prompt and max_tokens 7 make 11; the context has 10'],
    [
      { max_completion_tokens: 7 },
      4,
      'max_completion_tokens',
      '4 tokens of prompt and max_completion_tokens 7 make 11; the context has 10',
    ],
    [{ min_tokens: 7 }, 4, 'min_tokens', 'min_tokens is 7; the context has room for 6 tokens of answer'],
    [{ min_tokens: 4, max_tokens: 3 }, 4, 'min_tokens', 'min_tokens is 4; max_tokens is 3'],
  ])('is not: %j after %i tokens', (body, prompt, param, message) => {
    let error: unknown;
    try {
      answerSpecs(request(body, [1, prompt]), caller, 10);
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toMatchObject({ param, message });
    if (error instanceof DetailedError) expect(error.details).toMatchObject({ n_prompt_tokens: prompt, n_ctx: 10 });
  });
});

describe('the sequences of a request', () => {
  it('are n for each prompt, in order, alike but for prompts and seeds', () => {
    const specs = answerSpecs(request({ n: 2, seed: 5 }, [1, 3]), caller, 10);
    expect(specs.map(({ prompt, maxTokens }) => [prompt.length, maxTokens])).toEqual([
      [1, 9],
      [1, 9],
      [3, 7],
      [3, 7],
    ]);
    const [first, second, third, fourth] = specs.map(({ sampling }) => sampling.seed);
    expect([first, third, second === fourth, first === second]).toEqual([5n, 5n, true, false]);
    for (const spec of specs) expect(spec).toMatchObject({ tenant: 't', domain: 'd' });
  });

  it('score their prompt where it is echoed with log-probabilities, and only there', () => {
    const scored = (changes: Partial<GenerationRequest>) => answerSpecs(request({}, [1], changes), caller, 10)[0].promptLogprobs;
    expect(scored({ echo: ['x'], wantLogprob: true })).toBe(true);
    expect(scored({ echo: ['x'] })).toBe(false);
    expect(scored({ wantLogprob: true })).toBe(false);
  });
});
