import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { PromptEncoder } from '../src/tokenizing/prompt-text.ts';
import { readTokenizerFolder } from '../src/tokenizing/tokenizer-folder.ts';
import { Tokenizing } from '../src/tokenizing/tokenizing.ts';
import { modelDir } from './model-dir.ts';

const scratch = mkdtempSync(path.join(os.tmpdir(), 'sw-tokenizer-'));
afterAll(() => rmSync(scratch, { recursive: true }));
const bundled = readTokenizerFolder(modelDir);

describe('a plain prompt has around it what the class of its tokenizer puts there', () => {
  const [bos, eos] = [1, 2];
  const deepSeeks = { tokenizer_class: 'LlamaTokenizerFast', bos_token: { content: '<|im_start|>' }, eos_token: '<|im_end|>' };
  const template = {
    type: 'TemplateProcessing',
    single: [{ SpecialToken: { id: '<|im_start|>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
    pair: [],
  };
  const encoded = (config: Record<string, unknown>, postProcessor: unknown, addSpecialTokens = true, controls = true) => {
    const encoder = new PromptEncoder({ ...bundled, config, tokenizer: { ...bundled.tokenizer, post_processor: postProcessor } });
    return encoder.encode({ kind: 'text', text: 'Call me', addSpecialTokens, controls }, Number.POSITIVE_INFINITY);
  };
  const text = encoded({}, null, false);

  it.each([
    ["DeepSeek's: its own token, though tokenizer.json has none", { ...deepSeeks, add_bos_token: true }, null, [bos, ...text]],
    ['that token unless it says otherwise', deepSeeks, null, [bos, ...text]],
    ['under its older name', { ...deepSeeks, tokenizer_class: 'LlamaTokenizer' }, null, [bos, ...text]],
    ["Mixtral's, where both say the same", deepSeeks, template, [bos, ...text]],
    ['at the end', { ...deepSeeks, add_eos_token: true }, null, [bos, ...text, eos]],
    ['nothing where it says so, whatever tokenizer.json has', { ...deepSeeks, add_bos_token: false }, template, text],
    ['of another class, what tokenizer.json has', { ...deepSeeks, tokenizer_class: 'PreTrainedTokenizerFast' }, template, [bos, ...text]],
    ['of another class without, nothing', { ...deepSeeks, tokenizer_class: 'Qwen2Tokenizer', add_bos_token: true }, null, text],
  ])('%s', (_, config, postProcessor, ids) => {
    expect(encoded(config, postProcessor)).toEqual(ids);
    expect(encoded(config, postProcessor, true, false)).toEqual(ids);
    expect(encoded(config, postProcessor, false)).toEqual(text);
  });

  it.each([
    [{ tokenizer_class: 'LlamaTokenizerFast' }, '"<s>"'],
    [{ tokenizer_class: 'LlamaTokenizerFast', bos_token: null }, 'null'],
  ])('and is refused where that is no token: %j', (config, shown) => {
    const told = `tokenizer.json: bos_token ${shown}, which add_bos_token of tokenizer_config.json asks for, is not in the vocabulary`;
    expect(() => encoded(config, null)).toThrow(told);
  });
});

describe('a folder whose tokenizer is none', () => {
  const inFolder = (changes: Record<string, unknown>, config: unknown = {}) => {
    writeFileSync(path.join(scratch, 'tokenizer.json'), JSON.stringify({ ...bundled.tokenizer, ...changes }));
    writeFileSync(path.join(scratch, 'tokenizer_config.json'), JSON.stringify(config));
    return new Tokenizing(scratch);
  };

  it.each([
    [{ added_tokens: [{ id: 5, content: 'x'.repeat(1025) }] }, 'added_tokens[0] has 1025 characters: must have at most 1024'],
    [{ added_tokens: {} }, 'added_tokens must be a list'],
    [
      { added_tokens: [{ id: 5, special: false }] },
      'added_tokens[0] must have a whole number below 4194304 as id, a text as content, and true or false for',
    ],
    [{ added_tokens: [null] }, 'added_tokens[0] must have'],
    [{ added_tokens: [{ id: 2 ** 31 - 1, content: 'x' }] }, 'added_tokens[0] must have a whole number below 4194304'],
    [{ model: { ...bundled.tokenizer.model, vocab: { a: 2 ** 31 - 1 } } }, 'model.vocab must give each piece a whole number below 4194304'],
    [{ added_tokens: [{ id: -1, content: 'x' }] }, 'added_tokens[0] must have'],
    [{ added_tokens: [{ id: 5, content: 'x', special: 1 }] }, 'added_tokens[0] must have'],
    [{ model: 5 }, 'model.vocab is missing'],
    [{ model: { ...bundled.tokenizer.model, vocab: { a: 'x' } } }, 'model.vocab must give each piece a whole number'],
    [{ model: { ...bundled.tokenizer.model, vocab: [5] } }, 'model.vocab must give each piece a whole number'],
    [{ model: { ...bundled.tokenizer.model, merges: 5 } }, ' is not a tokenizer: '],
    [{ pre_tokenizer: 5 }, 'pre_tokenizer must be null or an object with a type'],
    [{ pre_tokenizer: { type: 'Sequence', pretokenizers: 5 } }, ' is not a tokenizer: '],
    [{ normalizer: { type: 'Nonesuch' } }, ' is not a tokenizer: '],
    [{ decoder: { type: 'Sequence', decoders: [null] } }, 'decoder must be null or an object with a type'],
  ])('is refused, and its file named (%#)', (changes, told) => {
    const file = path.join(scratch, 'tokenizer.json');
    let error: unknown;
    try {
      inFolder(changes);
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toMatchObject({ code: 'bad_checkpoint', message: expect.stringContaining(told) });
    expect((error as Error).message.startsWith(file)).toBe(true);
  });

  it.each([
    [[], 'tokenizer_config.json is not an object'],
    [{ chat_template: 5 }, 'tokenizer_config.json: chat_template must be a text, or a list of objects with name and template'],
    [{ chat_template: [{ name: 'default', template: 5 }] }, 'chat_template must be a text'],
  ])('is refused by what tokenizer_config.json says: %j', (config, told) => {
    expect(() => inFolder({}, config)).toThrow(told);
  });

  it('may leave steps and added tokens out, and what they are besides an id and a text', async () => {
    const absent = { normalizer: undefined, pre_tokenizer: undefined, post_processor: undefined, added_tokens: undefined };
    const tokenizing = inFolder(absent, { chat_template: [null, { name: 'default', template: 'x' }] });
    expect(Array.from(await tokenizing.encode({ kind: 'text', text: 'a', addSpecialTokens: true, controls: true }))).toHaveLength(1);
    const bare = inFolder({ added_tokens: [{ id: 1, content: '<|im_start|>' }] });
    expect(Array.from(await bare.encode({ kind: 'text', text: '<|im_start|>', addSpecialTokens: true, controls: true }))).toEqual([1]);
  });
});

it('the template for tools may stand in a file of its own', () => {
  const dir = mkdtempSync(path.join(scratch, 'templates-'));
  writeFileSync(path.join(dir, 'tokenizer.json'), JSON.stringify(bundled.tokenizer));
  writeFileSync(path.join(dir, 'chat_template.jinja'), 'plain');
  expect(readTokenizerFolder(dir)).toMatchObject({ chatTemplate: 'plain', toolTemplate: null });
  mkdirSync(path.join(dir, 'additional_chat_templates'));
  writeFileSync(path.join(dir, 'additional_chat_templates', 'tool_use.jinja'), 'with tools');
  expect(readTokenizerFolder(dir)).toMatchObject({ chatTemplate: 'plain', toolTemplate: 'with tools' });
});
