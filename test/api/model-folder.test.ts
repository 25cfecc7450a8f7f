import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
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
