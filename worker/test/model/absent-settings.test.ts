import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { openCheckpoint } from '../../src/checkpoint/checkpoint.ts';
import { probedExperts, typicalSize } from '../../src/model/contribution-grid.ts';
import { describeModel } from '../../src/model/families.ts';
import { resolveNumericClass } from '../../src/model/numeric-class.ts';
import { firstDifferentBit } from '../../src/verify/comparison.ts';
import { verifyCheckpoint } from '../../src/verify/verify.ts';
import { type FileTensor, readTensors, ScratchFolder, widened, writeTensors } from '../checkpoint/checkpoint-files.ts';
import { expectSameBits, logitsOfFolder, someTokens, tinyOptions, withModel } from './loading.ts';

// A config.json need not say what its family's own code takes for granted, and may say some things in several places.

const scratch = new ScratchFolder();
afterAll(() => scratch.remove());
type Settings = Record<string, unknown>;
const tokens = someTokens(150, 320); // Longer than any window here.
const logits = (folder: string, settings: Settings) => logitsOfFolder(tinyOptions(scratch.copyOf(folder, settings)), tokens);

const noRope = { rope_theta: undefined, rope_parameters: undefined, rope_scaling: undefined };
const gptOssRope = { rope_type: 'yarn', factor: 32, beta_fast: 32, beta_slow: 1, truncate: false, original_max_position_embeddings: 4096 };
/** Absent settings, and the same said (what transformers 5.19 takes for them). */
const families: [folder: string, absent: Settings, said: Settings][] = [
  ['mixtral', noRope, { ...noRope, rope_theta: 1e6 }],
  ['phimoe', { rope_theta: undefined }, { rope_theta: 1e6 }],
  ['minimax_m2', { ...noRope, partial_rotary_factor: 0.5 }, { ...noRope, partial_rotary_factor: 0.5, rope_theta: 5e6 }],
  ['ernie4_5_moe', noRope, { ...noRope, rope_theta: 5e5 }],
  ['gpt_oss', noRope, { ...noRope, rope_parameters: { ...gptOssRope, rope_theta: 150_000 } }],
  ['gpt_oss', { rope_theta: undefined }, { rope_theta: 150_000 }],
  ['gpt_oss', { sliding_window: undefined }, { sliding_window: 128 }],
  ['deepseek_v3', { routed_scaling_factor: undefined }, { routed_scaling_factor: 2.5 }],
  ['deepseek_v3', { n_group: undefined, topk_group: undefined }, { n_group: 8, topk_group: 4 }],
  ['dots1', { norm_topk_prob: undefined }, { norm_topk_prob: false }],
  ['ernie4_5_moe', { moe_layer_start_index: undefined }, { moe_layer_start_index: 1 }],
  ['qwen2_moe', { use_sliding_window: true, sliding_window: undefined }, { use_sliding_window: true, sliding_window: 4096 }],
  ['qwen3_moe', { use_sliding_window: true, sliding_window: undefined }, { use_sliding_window: true, sliding_window: 4096 }],
  ...['mixtral', 'olmoe', 'phimoe', 'gpt_oss', 'glm4_moe', 'ernie4_5_moe', 'hunyuan_v1_moe'].map(epsOf(1e-5)),
  ...['qwen2_moe', 'qwen3_moe', 'granitemoe', 'deepseek_v2', 'deepseek_v3', 'dots1', 'minimax_m2'].map(epsOf(1e-6)),
];

function epsOf(eps: number): (folder: string) => [folder: string, absent: Settings, said: Settings] {
  return (folder) => [folder, { rms_norm_eps: undefined }, { rms_norm_eps: eps }];
}

test.each(families)('%s without %o', async (folder, absent, said) => {
  const [got, wanted] = await Promise.all([logits(folder, absent), logits(folder, said)]);
  expectSameBits(got, wanted);
});

test('qwen2_moe without max_window_layers has windows in its first 28 layers', async () => {
  const dir = (settings: Settings) =>
    rewritten('qwen2_moe', (tensors) => repeatLayers(tensors, 30), {
      num_hidden_layers: 30,
      use_sliding_window: true,
      sliding_window: 16,
      mlp_only_layers: [],
      decoder_sparse_step: 1,
      ...settings,
    });
  const logitsIn = (settings: Settings) => logitsOfFolder(tinyOptions(dir(settings)), tokens);
  const absent = await logitsIn({ max_window_layers: undefined });
  expectSameBits(absent, await logitsIn({ max_window_layers: 28 }));
  expect(firstDifferentBit(absent, await logitsIn({ max_window_layers: 30 }))).toBeGreaterThanOrEqual(0);
});

/** The last layer of a checkpoint again and again, in the place of all of them. */
function repeatLayers(tensors: Map<string, FileTensor>, count: number): void {
  const layerOf = (name: string) => Number(/^model\.layers\.(\d+)\./.exec(name)?.[1] ?? -1);
  const inLayers = [...tensors].filter(([name]) => layerOf(name) >= 0);
  const last = Math.max(...inLayers.map(([name]) => layerOf(name)));
  for (const [name] of inLayers) tensors.delete(name);
  for (const [name, tensor] of inLayers.filter(([key]) => layerOf(key) === last))
    for (let layer = 0; layer < count; layer++) tensors.set(name.replace(/\d+/, String(layer)), tensor);
}

test("SMILE's models may have Qwen3's sliding window", async () => {
  const ofItsVocabulary = tokens.map((token) => token % 96);
  const logitsIn = (settings: Settings) => logitsOfFolder(tinyOptions(rewritten('smile_moe', () => {}, settings)), ofItsVocabulary);
  const windowed = await logitsIn({ use_sliding_window: true, sliding_window: 16 });
  expect(firstDifferentBit(windowed, await logitsIn({ sliding_window: 16 }))).toBeGreaterThanOrEqual(0);
});

test('dots1 without layer_types has windows from max_window_layers on', async () => {
  const absent = await logits('dots1', { layer_types: undefined, sliding_window: 16, max_window_layers: 1 });
  const types = ['full_attention', 'sliding_attention', 'sliding_attention'];
  expectSameBits(absent, await logits('dots1', { layer_types: types, sliding_window: 16 }));
  expect(firstDifferentBit(absent, await logits('dots1', {}))).toBeGreaterThanOrEqual(0);
  await expect(logits('dots1', { layer_types: types, sliding_window: null })).rejects.toThrow(/"sliding_window" is null/);
});

describe('rope settings', () => {
  test('what is nested goes before what is not, and a theta may be nested in either generation', async () => {
    const nested = await logits('deepseek_v3', {
      rope_theta: 7,
      rope_scaling: { ...openedRope('deepseek_v3'), rope_theta: 5000 },
    });
    expectSameBits(nested, await logits('deepseek_v3', { rope_theta: 5000 }));
  });

  test('but the original context that the model itself names', async () => {
    const named = await logits('gpt_oss', { original_max_position_embeddings: 128 });
    expectSameBits(named, await logits('gpt_oss', { rope_scaling: { ...openedRope('gpt_oss'), original_max_position_embeddings: 128 } }));
  });

  test('of both generations at once are refused', async () => {
    const both = { rope_parameters: { rope_type: 'default', rope_theta: 10_000 } };
    await expect(logits('gpt_oss', both)).rejects.toThrow(/"rope_scaling" is .*, not absent/);
  });

  test.each([
    // One that is no number at once, and one that is none from the second position on.
    { short_factor: [1, 1, 1, 1e-320, 1, 1, 1, 1] },
    { short_factor: [1e-308, 1, 1, 1, 1, 1, 1, 1] },
    { original_max_position_embeddings: 1, long_mscale: undefined },
  ])('whose angles are not finite are refused: %o', async (change) => {
    const settings = { original_max_position_embeddings: undefined, rope_scaling: { ...openedRope('phimoe'), ...change } };
    await expect(logits('phimoe', settings)).rejects.toThrow('rope settings give angles that are not finite');
  });
});

function openedRope(folder: string): Settings {
  return JSON.parse(readFileSync(path.join(scratch.copyOf(folder), 'config.json'), 'utf8')).rope_scaling;
}

/** A copy of a golden folder in one file, its tensors changed by `change`. */
function rewritten(folder: string, change: (tensors: Map<string, FileTensor>) => void, settings: Settings = {}): string {
  const dir = scratch.copyOf(folder, settings);
  const tensors = readTensors(dir);
  change(tensors);
  writeTensors(path.join(dir, 'model.safetensors'), tensors);
  return dir;
}

describe('the head', () => {
  test('is the embedding where the two are tied', async () => {
    const tied = rewritten('ernie4_5_moe', (tensors) => tensors.delete('lm_head.weight'), { tie_word_embeddings: undefined });
    const said = rewritten('ernie4_5_moe', (tensors) => tensors.set('lm_head.weight', tensors.get('model.embed_tokens.weight')!), {
      tie_word_embeddings: false,
    });
    expectSameBits(await logitsOfFolder(tinyOptions(tied), tokens), await logitsOfFolder(tinyOptions(said), tokens));
  });

  test.each(['mixtral', 'phimoe'])('of %s is its own where there is one, whatever tie_word_embeddings says', async (folder) => {
    expectSameBits(await logits(folder, { tie_word_embeddings: true }), await logits(folder, {}));
  });
});

test('ERNIE: blocks that predict several tokens are left alone; biases of feed-forward blocks are refused by key', async () => {
  const dir = rewritten('ernie4_5_moe', (tensors) =>
    tensors.set('model.mtp_emb_norm.0.weight', { dtype: 'F32', shape: [2], bytes: new Uint8Array(8) }),
  );
  expectSameBits(await logitsOfFolder(tinyOptions(dir), tokens), await logits('ernie4_5_moe', {}));
  await expect(logits('ernie4_5_moe', { use_bias: true })).rejects.toThrow(/"use_bias" is true, not false/);
});

describe('what is stored wider than bf16', () => {
  const classOf = (dir: string) =>
    resolveNumericClass(describeModel(openCheckpoint(dir)), { activations: 'auto', experts: 'stored', dense: 'stored', sum: 'exact' });
  const isExpert = (name: string) => /\.experts\.\d/.test(name);

  test('decides the class by its experts', () => {
    const halves = (tensors: Map<string, FileTensor>) => {
      for (const [name, tensor] of tensors) if (isExpert(name)) tensors.set(name, { ...tensor, dtype: 'F16' });
    };
    expect(classOf(rewritten('qwen3_moe', () => {})).activations).toBe('bf16');
    expect(classOf(rewritten('qwen3_moe', halves)).activations).toBe('f32');
  });

  test('is not rounded in matrices that stay at home', async () => {
    // The last mantissa bit of a head: lost in bf16.
    const bump = (tensors: Map<string, FileTensor>) => {
      const wide = widened(tensors.get('lm_head.weight')!);
      const words = new Uint32Array(wide.bytes.buffer);
      for (let i = 0; i < words.length; i++) words[i] |= 1;
      tensors.set('lm_head.weight', wide);
    };
    const plain = (tensors: Map<string, FileTensor>) => tensors.set('lm_head.weight', widened(tensors.get('lm_head.weight')!));
    const bf16 = { activations: 'bf16', experts: 'stored', dense: 'stored', sum: 'exact' } as const;
    const [bumped, flat] = await Promise.all(
      [bump, plain].map((change) => logitsOfFolder(tinyOptions(rewritten('qwen3_moe', change), { numericClass: bf16 }), tokens)),
    );
    expect(firstDifferentBit(bumped!, flat!)).toBeGreaterThanOrEqual(0);
  });
});

describe('the grid', () => {
  test('is that of the middle one of a few experts, those that answer nothing left out', () => {
    expect(probedExperts(64)).toEqual([0, 32, 63]);
    expect(probedExperts(2)).toEqual([0, 1]);
    expect(probedExperts(1)).toEqual([0]);
    expect(typicalSize([5, 1, 3])).toBe(3);
    expect(typicalSize([0, 4, 2])).toBe(2);
    expect(typicalSize([0, 0])).toBe(0);
  });

  test('does not notice an expert that was pruned, nor one that is far larger than the rest', async () => {
    const grids = (dir: string) => withModel(tinyOptions(dir), (model) => model.moe.map(({ grid }) => grid));
    const usual = await grids(scratch.copyOf('mixtral'));
    const scaled = (change: (bytes: Uint8Array) => Uint8Array) =>
      rewritten('mixtral', (tensors) => {
        for (const [name, tensor] of tensors)
          if (name.includes('.experts.0.w2.')) tensors.set(name, { ...tensor, bytes: change(tensor.bytes) });
      });
    const pruned = await grids(scaled((bytes) => new Uint8Array(bytes.length)));
    // An f32 or bf16 exponent is in the last bytes: 2^8 times as large.
    const huge = await grids(
      scaled((bytes) => {
        const words = new Float32Array(Uint8Array.from(bytes).buffer).map((value) => value * 256);
        return new Uint8Array(words.buffer);
      }),
    );
    usual.forEach((grid, layer) => {
      expect(Math.abs(pruned[layer]! - grid)).toBeLessThanOrEqual(1);
      expect(Math.abs(huge[layer]! - grid)).toBeLessThanOrEqual(1);
    });
  });
});

test('verify compares logits of a prompt that fits the original context, though its continuation does not', async () => {
  const dir = scratch.copyOf('phimoe', { original_max_position_embeddings: 50 });
  const report = await verifyCheckpoint({
    dir,
    nodes: 1,
    workersPerNode: 1,
    plan: null,
    devices: [{ backend: 'cpu', isa: 'auto', threads: 1, cpus: null }],
    onProgress: () => {},
  });
  const short = report.cases.filter((one) => one.tokens <= 50);
  expect(short.some((one) => one.tokens + 16 > 50)).toBe(true);
  for (const one of short) for (const phase of one.phases) expect(phase.ok).toBe(true);
});

describe('values that nest too deep to be written out', () => {
  const deep = `${'['.repeat(200_000)}${']'.repeat(200_000)}`;

  test('in config.json', async () => {
    const dir = scratch.copyOf('mixtral');
    const file = path.join(dir, 'config.json');
    writeFileSync(file, readFileSync(file, 'utf8').replace(/"hidden_size": *\d+/, `"hidden_size": ${deep}`));
    await expect(logitsOfFolder(tinyOptions(dir), tokens)).rejects.toMatchObject({ code: 'bad_checkpoint' });
  });

  test.each(['dtype', 'shape', 'data_offsets'])('as %s of a tensor', async (key) => {
    const dir = scratch.copyOf('mixtral');
    const header = Buffer.from(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"${key}":${deep}}}`);
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(header.length));
    writeFileSync(path.join(dir, 'model.safetensors'), Buffer.concat([length, header, Buffer.alloc(4)]));
    await expect(logitsOfFolder(tinyOptions(dir), tokens)).rejects.toMatchObject({ code: 'bad_checkpoint' });
  });

  test('as the file of a tensor', async () => {
    const dir = scratch.copyOf('mixtral');
    rmSync(path.join(dir, 'model.safetensors'));
    writeFileSync(path.join(dir, 'model.safetensors.index.json'), `{"weight_map":{"a":${deep}}}`);
    await expect(logitsOfFolder(tinyOptions(dir), tokens)).rejects.toMatchObject({ code: 'bad_checkpoint' });
  });
});
