import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { readModelFolder } from '../../coordinator/src/model-folder.ts';
import { readTokenizerFolder } from '../../coordinator/src/tokenizing/tokenizer-folder.ts';
import { inspectModel } from '../../worker/src/index.ts';
import { modelDir } from './cluster.ts';

const golden = fileURLToPath(new URL('../golden', import.meta.url));
const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-model-'));
afterAll(() => rmSync(folder, { recursive: true }));

describe('a checkpoint as the coordinator sees it', () => {
  const families = readdirSync(golden, { withFileTypes: true }).filter((entry) => entry.isDirectory());

  it.each(families.map(({ name }) => name))('%s has its experts where workers find them', (name) => {
    const dir = path.join(golden, name);
    const { plan, topK, vocab } = readModelFolder(dir);
    const inspected = inspectModel(dir);
    expect(plan.type).toBe(inspected.modelType);
    expect(plan.moeLayers).toEqual(inspected.moeLayers);
    expect([plan.experts, topK, vocab]).toEqual([inspected.experts, inspected.topK, inspected.vocab]);
  });

  it.each([
    ['glm4_moe', 'first_k_dense_replace'],
    ['ernie4_5_moe', 'moe_layer_start_index'],
  ])('%s without %s has its experts where its own code has them', (name, key) => {
    const copy = path.join(folder, name);
    cpSync(path.join(golden, name), copy, { recursive: true });
    const { [key]: _, ...config } = JSON.parse(readFileSync(path.join(copy, 'config.json'), 'utf8'));
    writeFileSync(path.join(copy, 'config.json'), JSON.stringify(config));
    expect(readModelFolder(copy).plan.moeLayers).toEqual(inspectModel(copy).moeLayers);
  });

  const changed = (name: string, settings: Record<string, unknown>) => {
    const copy = mkdtempSync(path.join(folder, `${name}-`));
    cpSync(path.join(golden, name), copy, { recursive: true });
    const config = JSON.parse(readFileSync(path.join(copy, 'config.json'), 'utf8'));
    writeFileSync(path.join(copy, 'config.json'), JSON.stringify({ ...config, ...settings }));
    return copy;
  };
  const said = families.filter(({ name }) => !name.startsWith('smile_moe'));

  it.each(said.map(({ name }) => name))('%s without a length has the one that its own code takes', (name) => {
    const copy = changed(name, { max_position_embeddings: undefined });
    expect(readModelFolder(copy).contextMax).toBe(inspectModel(copy).maxContext);
  });

  const factor = 4;
  const original = 32_768;
  const yarn = { type: 'yarn', factor, original_max_position_embeddings: original };
  it.each([
    ['by YaRN, the length left as it was', { max_position_embeddings: 40_960, rope_scaling: yarn }, 131_072],
    [
      'by YaRN in settings of the second generation',
      { max_position_embeddings: 40_960, rope_parameters: { ...yarn, rope_type: 'yarn' } },
      131_072,
    ],
    ['by YaRN, as published', { max_position_embeddings: 131_072, rope_scaling: yarn }, 131_072],
    ['by YaRN, made for more', { max_position_embeddings: 163_840, rope_scaling: yarn }, 163_840],
    ['by YaRN from what it has', { max_position_embeddings: 40_960, rope_scaling: { type: 'yarn', factor } }, 163_840],
    ['by a factor that is not whole', { max_position_embeddings: 100, rope_scaling: { ...yarn, factor: 2.00001 } }, 65_536],
    [
      'from where the model itself names it',
      { max_position_embeddings: 512, original_max_position_embeddings: 1024, rope_scaling: yarn },
      4096,
    ],
    ['linearly, from a length that is named', { max_position_embeddings: 40_960, rope_scaling: { ...yarn, type: 'linear' } }, 131_072],
    ['linearly, which may be in the length already', { max_position_embeddings: 40_960, rope_scaling: { type: 'linear', factor } }, 40_960],
    ['not at all', { max_position_embeddings: 40_960, rope_scaling: { type: 'default' } }, 40_960],
  ])('a context that is stretched %s', (_, settings, tokens) => {
    const copy = changed('qwen3_moe', settings);
    expect(inspectModel(copy).maxContext).toBe(tokens);
    expect(readModelFolder(copy).contextMax).toBe(tokens);
  });

  it.each(['deepseek_v2', 'deepseek_v3', 'gpt_oss', 'phimoe'])('%s has the length that it says', (name) => {
    expect([inspectModel(path.join(golden, name)).maxContext, readModelFolder(path.join(golden, name)).contextMax]).toEqual([512, 512]);
  });

  it('deepseek_v3 without first_k_dense_replace begins with three layers that have none', () => {
    writeFileSync(
      path.join(folder, 'config.json'),
      '{"model_type":"deepseek_v3","num_hidden_layers":5,"vocab_size":5,"n_routed_experts":4,"num_experts_per_tok":1}',
    );
    expect(readModelFolder(folder).plan.moeLayers).toEqual([3, 4]);
  });

  it.each([
    ['deepseek_v2', { groups: 4 }],
    ['deepseek_v3', { groups: 4 }],
    ['smile_moe', { groups: 4 }],
    ['deepseek_v2_lite', {}],
    ['qwen3_moe', {}],
  ])('%s has groups: %o', (name, grouping) => {
    expect(readModelFolder(path.join(golden, name)).grouping).toEqual(grouping);
  });

  it('the bundled model says how it samples and ends', () => {
    expect(readModelFolder(modelDir)).toMatchObject({
      plan: { type: 'qwen3_moe', moeLayers: [0, 1, 2, 3, 4, 5], experts: 32 },
      contextMax: 1024,
      eosTokens: [2, 0],
      sampling: { temperature: 0.7, topP: 0.9, topK: 0, repetitionPenalty: 1 },
      storedWide: false,
    });
  });

  it.each([
    ['{', /config\.json is not JSON/],
    ['{"model_type":"x","num_hidden_layers":2,"vocab_size":5}', /config\.json: num_local_experts or .* is missing/],
    [
      '{"model_type":"x","num_hidden_layers":-2,"vocab_size":5,"num_experts":4}',
      /config\.json: num_hidden_layers is -2; a whole number from 1 to 10000/,
    ],
    ['{"num_hidden_layers":2}', /config\.json: model_type is missing/],
  ])('%s is refused by name', (text, message) => {
    writeFileSync(path.join(folder, 'config.json'), text);
    expect(() => readModelFolder(folder)).toThrow(message);
  });

  it('a folder without files names what is missing', () => {
    expect(() => readModelFolder('/nowhere')).toThrow('/nowhere/config.json: no such file');
    expect(() => readTokenizerFolder('/nowhere')).toThrow('/nowhere/tokenizer.json: no such file');
    writeFileSync(path.join(folder, 'tokenizer.json'), '{"model":{}}');
    expect(() => readTokenizerFolder(folder)).toThrow(/tokenizer\.json: model\.vocab is missing/);
  });
});
