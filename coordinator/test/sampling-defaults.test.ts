import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { readModelFolder } from '../src/model-folder.ts';

const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-sd-'));
afterAll(() => rmSync(folder, { recursive: true }));

const file = path.join(folder, 'generation_config.json');
const shape = { model_type: 'x', num_hidden_layers: 2, vocab_size: 100, num_experts: 4, num_experts_per_tok: 2 };

function read(generation: unknown, config: Record<string, unknown> = {}) {
  writeFileSync(path.join(folder, 'config.json'), JSON.stringify({ ...shape, ...config }));
  writeFileSync(file, JSON.stringify(generation));
  return readModelFolder(folder);
}

describe('how a checkpoint samples', () => {
  const neutral = { temperature: 1, topP: 1, topK: 0, minP: 0, repetitionPenalty: 1 };

  it.each([
    [null, neutral],
    [{}, neutral],
    [{ temperature: null, top_k: null, do_sample: null }, neutral],
    [{ do_sample: true, top_k: -1 }, neutral],
    [
      { temperature: 2, top_p: 0, top_k: 2 ** 31, min_p: 1, repetition_penalty: 10 },
      { temperature: 2, topP: 0, topK: 2 ** 31, minP: 1, repetitionPenalty: 10 },
    ],
    [
      { do_sample: false, temperature: 0.7, top_p: 0.5, top_k: 5, min_p: 0.1, repetition_penalty: 1.1 },
      { temperature: 0, topP: 1, topK: 0, minP: 0, repetitionPenalty: 1.1 },
    ],
  ])('is said by %j', (generation, sampling) => {
    expect(read(generation).sampling).toEqual(sampling);
  });

  it.each([
    [{ temperature: -0.1 }, 'temperature is -0.1; a number from 0 to 2 is needed'],
    [{ temperature: '0.7' }, 'temperature is "0.7"; a number from 0 to 2 is needed'],
    [{ top_p: 1.1 }, 'top_p is 1.1; a number from 0 to 1 is needed'],
    [{ top_k: 1.5 }, 'top_k is 1.5; a whole number from -1 to 2147483648 is needed'],
    [{ top_k: -2 }, 'top_k is -2; a whole number from -1 to 2147483648 is needed'],
    [{ min_p: [] }, 'min_p is []; a number from 0 to 1 is needed'],
    [{ repetition_penalty: 0 }, 'repetition_penalty is 0; a number from 0.01 to 10 is needed'],
    [{ do_sample: 'no' }, 'do_sample is "no"; true or false is needed'],
  ])('is refused at the start where no request could be sampled so: %j', (generation, problem) => {
    expect(() => read(generation)).toThrow(`${file}: ${problem}`);
  });
});

describe('tokens that end an answer', () => {
  it.each([
    [{ eos_token_id: 2 }, { eos_token_id: 7 }, [2]],
    [{}, { eos_token_id: 7 }, [7]],
    [{ eos_token_id: [2, 0] }, {}, [2, 0]],
    [{ eos_token_id: [99, 100, -1] }, {}, [99]],
    [{ eos_token_id: null }, { eos_token_id: 7 }, [7]],
    [{}, {}, []],
  ])('are those of the vocabulary that %j names, or %j', (generation, config, tokens) => {
    expect(read(generation, config).eosTokens).toEqual(tokens);
  });

  it.each([
    [[2, 0.5], 'is [2,0.5]'],
    ['3', 'is "3"'],
    [[null], 'is [null]'],
    [{}, 'is {}'],
    [Array(65).fill(2), 'has 65 entries'],
  ])('are refused where they are no ids, or too many: %j', (wrong, what) => {
    const problem = `eos_token_id ${what}; a token id or a list of at most 64 is needed`;
    expect(() => read({ eos_token_id: wrong })).toThrow(`${file}: ${problem}`);
    expect(() => read({}, { eos_token_id: wrong })).toThrow(`config.json: ${problem}`);
  });
});
