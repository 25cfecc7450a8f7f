import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { SwitchyardError } from '@switchyard/proto';
import fc from 'fast-check';
import { afterAll, describe, expect, test } from 'vitest';
import { type Checkpoint, openCheckpoint } from '../../src/checkpoint/checkpoint.ts';
import { ConfigReader } from '../../src/checkpoint/config-reader.ts';
import { readQuantisation } from '../../src/checkpoint/quantisation.ts';
import { readTensorIndex } from '../../src/checkpoint/tensor-index.ts';
import { Tensors } from '../../src/checkpoint/tensors.ts';
import { describeModel } from '../../src/model/families.ts';
import { type FileTensor, goldenDir, ScratchFolder, writeTensors } from './checkpoint-files.ts';

const scratch = new ScratchFolder();
afterAll(() => scratch.remove());

const describeFolder = (folder: string, settings: Record<string, unknown>) =>
  describeModel(openCheckpoint(scratch.copyOf(folder, settings)));

describe('what is not implemented is refused by name', () => {
  const yarn = { type: 'yarn', factor: 4, original_max_position_embeddings: 32 };
  const cases: [string, Record<string, unknown>, RegExp][] = [
    ['mixtral', { model_type: 'mamba' }, /config\.json: "model_type" is "mamba", not supported here; supported: mixtral, olmoe/],
    ['mixtral', { model_type: 'constructor' }, /"model_type" is "constructor"/],
    ['mixtral', { model_type: null }, /"model_type" is null/],
    ['mixtral', { hidden_act: 'gelu' }, /"hidden_act" is "gelu".*supported: silu/],
    [
      'mixtral',
      { rope_scaling: { rope_type: 'dynamic', factor: 2 } },
      /"rope_scaling\.rope_type" is "dynamic".*supported: default, linear, yarn, longrope/,
    ],
    ['mixtral', { rope_scaling: { type: 'ntk' } }, /"rope_scaling\.type" is "ntk"/],
    ['mixtral_window', { rope_parameters: { rope_type: 'axial' } }, /"rope_parameters\.rope_type" is "axial"/],
    [
      'mixtral',
      { rope_scaling: { type: 'yarn', factor: -1 } },
      /"rope_scaling\.factor" is -1, not a number from 1e-18 to 1000000000000000000/,
    ],
    [
      'phimoe',
      { rope_scaling: { type: 'longrope', short_factor: [1], long_factor: [1], original_max_position_embeddings: 64 } },
      /"rope_scaling\.short_factor".*a list of 8 numbers/,
    ],
    [
      'glm4_moe',
      { partial_rotary_factor: 0.01, rope_parameters: undefined },
      /rotary embedding of 0 dims: pairs need an even number, 2 at least/,
    ],
    ['qwen3_moe', { rope_scaling: { type: 'dynamic', alpha: 4, factor: 2 } }, /"rope_scaling\.type" is "dynamic".*supported: default/],
    ['qwen3_moe', { partial_rotary_factor: 0.5 }, /"partial_rotary_factor" is 0\.5, not 1/],
    [
      'gpt_oss',
      { rope_scaling: undefined, rope_parameters: { full_attention: { rope_type: 'yarn', factor: 32 } } },
      /"rope_parameters\.full_attention" is .*, not absent: rope settings are the same for all layers/,
    ],
    ['phimoe', { num_experts_per_tok: 3 }, /"num_experts_per_tok" is 3, not 2, which SparseMixer/],
    ['deepseek_v2', { topk_method: 'noaux_tc' }, /"topk_method" is "noaux_tc".*greedy, group_limited_greedy/],
    ['deepseek_v2', { scoring_func: 'sigmoid' }, /"scoring_func" is "sigmoid"/],
    ['deepseek_v3', { scoring_func: 'sqrtsoftplus' }, /"scoring_func" is "sqrtsoftplus".*supported: sigmoid/],
    ['deepseek_v3', { n_group: 3 }, /"n_group" is 3, not a divisor of the 16 experts/],
    ['deepseek_v3', { rope_scaling: { ...yarn, beta_fast: 'x' } }, /"rope_scaling\.beta_fast" is "x"/],
    [
      'deepseek_v3_fp8',
      { quantization_config: { quant_method: 'awq' } },
      /"quantization_config\.quant_method" is "awq".*supported: fp8, mxfp4/,
    ],
    [
      'deepseek_v3_fp8',
      { quantization_config: { quant_method: 'fp8', weight_block_size: [128, 128], fmt: 'e5m2' } },
      /"quantization_config\.fmt" is "e5m2"/,
    ],
    ['deepseek_v3_fp8', { quantization_config: { quant_method: 'fp8', weight_block_size: [0, 128] } }, /weight_block_size/],
    [
      'deepseek_v3_fp8',
      { quantization_config: { quant_method: 'fp8', weight_block_size: [128, 128], activation_scheme: 'static' } },
      /"static"/,
    ],
    ['mixtral', { quantization_config: { quant_method: 'mxfp4' } }, /mxfp4 is implemented for gpt_oss, not for "mixtral"/],
    ['gpt_oss', { layer_types: ['chunked_attention', 'full_attention', 'full_attention'] }, /"layer_types"/],
  ];
  test.each(cases)('%s with %j', (folder, settings, message) => {
    expect(() => describeFolder(folder, settings)).toThrow(SwitchyardError);
    expect(() => describeFolder(folder, settings)).toThrow(message);
  });
});

describe('a config that does not fit the tensors names the tensor', () => {
  const cases: [string, Record<string, unknown>, RegExp][] = [
    [
      'mixtral',
      { hidden_size: 128 },
      /tensor "model\.embed_tokens\.weight" at offset \d+ has shape \[320,64\], config\.json asks for \[320,128\]/,
    ],
    [
      'mixtral',
      { intermediate_size: 47 },
      /tensor "model\.layers\.0\.block_sparse_moe\.experts\.0\.w1\.weight" at offset \d+ has shape \[48,64\]/,
    ],
    ['mixtral', { num_hidden_layers: 4 }, /tensor "model\.layers\.3\.input_layernorm\.weight" is missing/],
    ['mixtral', { num_local_experts: 7 }, /tensor "model\.layers\.0\.block_sparse_moe\.gate\.weight" at offset \d+ has shape \[8,64\]/],
    ['mixtral_window', { tie_word_embeddings: false }, /tensor "lm_head\.weight" is missing/],
    ['qwen2_moe', { qkv_bias: false }, /tensor "model\.layers\.\d\.self_attn\.[qkv]_proj\.bias" at offset \d+ has no place in the model/],
    ['qwen3_moe', { attention_bias: true }, /self_attn\.q_proj\.bias" is missing/],
    ['deepseek_v3_fp8', { quantization_config: undefined }, /is F8_E4M3, but config\.json has no quantization_config for fp8/],
    [
      'deepseek_v3_fp8',
      { quantization_config: { quant_method: 'fp8', weight_block_size: [64, 64] } },
      /weight_scale_inv" at offset \d+ has shape/,
    ],
    ['gpt_oss_mxfp4', { hidden_size: 72, head_dim: 16 }, /has shape \[320,64\]/],
    [
      'olmoe',
      { num_attention_heads: 3, head_dim: undefined, num_key_value_heads: 1 },
      /hidden_size 64 is not a multiple of num_attention_heads 3/,
    ],
    ['olmoe', { num_key_value_heads: 3 }, /"num_key_value_heads" is 3, not a divisor/],
    ['olmoe', { num_experts_per_tok: 9 }, /"num_experts_per_tok" is 9, not an integer from 1 to 8/],
    ['olmoe', { num_hidden_layers: 1e9 }, /"num_hidden_layers" is 1000000000, not an integer from 1 to 1024/],
    ['granitemoe', { residual_multiplier: 1e39 }, /"residual_multiplier" is 1e\+39, not 0 or a number of size/],
    ['granitemoe', { logits_scaling: 1e-300 }, /"logits_scaling" is 1e-300/],
    ['olmoe', { rms_norm_eps: '1e-5' }, /"rms_norm_eps" is "1e-5", not a number from 1e-18 to 1000000000000000000/],
  ];
  test.each(cases)('%s with %j', (folder, settings, message) => {
    expect(() => describeFolder(folder, settings)).toThrow(SwitchyardError);
    expect(() => describeFolder(folder, settings)).toThrow(message);
  });

  test('layers of multi-token prediction are left alone, others are not', () => {
    const { layers } = describeFolder('deepseek_v3', {});
    // Made into one by a config that has a layer less: DeepSeek-V3 has one of them where it does not say how many.
    expect(describeFolder('deepseek_v3', { num_hidden_layers: layers - 1, num_nextn_predict_layers: undefined }).layers).toBe(layers - 1);
    expect(describeFolder('minimax_m2', { num_hidden_layers: 1, num_mtp_modules: 8 }).layers).toBe(1);
    const none = { num_hidden_layers: layers - 1, num_nextn_predict_layers: 0 };
    expect(() => describeFolder('deepseek_v3', none)).toThrow(`tensor "model.layers.${layers - 1}.`);
    expect(() => describeFolder('mixtral', { num_hidden_layers: 2 })).toThrow(/tensor "model\.layers\.2\..*" .*has no place in the model/);
  });
});

describe('the spelling of published checkpoints', () => {
  test("dots.llm1 says with DeepSeek's name of the method that it scores by sigmoid", () => {
    expect(describeFolder('dots1', { scoring_func: 'noaux_tc' }).moe.length).toBe(describeFolder('dots1', {}).moe.length);
    expect(() => describeFolder('dots1', { scoring_func: 'softmax' })).toThrow(/"scoring_func" is "softmax".*supported: sigmoid, noaux_tc/);
    expect(() => describeFolder('deepseek_v3', { scoring_func: 'noaux_tc' })).toThrow(/"scoring_func" is "noaux_tc"/);
  });

  test('MiniMax-M2 names its FP8 format as PyTorch does', () => {
    const fp8 = { quant_method: 'fp8', weight_block_size: [128, 128], activation_scheme: 'dynamic', fmt: 'float8_e4m3fn' };
    expect(openCheckpoint(scratch.copyOf('deepseek_v3_fp8', { quantization_config: fp8 })).quantisation).toEqual({
      method: 'fp8',
      block: [128, 128],
    });
  });
});

test('both generations of rope settings say the same', () => {
  const config = (settings: Record<string, unknown>) => describeFolder('gpt_oss', settings).ropes;
  const scaling = { factor: 8, beta_fast: 32, beta_slow: 1, original_max_position_embeddings: 64, truncate: false };
  const first = config({ rope_theta: 150_000, rope_scaling: { rope_type: 'yarn', ...scaling } });
  const modern = config({
    rope_theta: undefined,
    rope_scaling: undefined,
    rope_parameters: { rope_type: 'yarn', rope_theta: 150_000, ...scaling },
  });
  expect(modern).toEqual(first);
  expect(config({ rope_theta: 10_000, rope_scaling: null })).not.toEqual(first);
});

test.each(['mixtral', 'deepseek_v3_fp8', 'gpt_oss_mxfp4', 'phimoe', 'granitemoe'])(
  'whatever config.json says, %s is described or refused',
  (folder) => {
    const dir = path.join(goldenDir, folder);
    const original = JSON.parse(readFileSync(path.join(dir, 'config.json'), 'utf8'));
    const tensors = readTensorIndex(dir);
    const value = fc.oneof(
      fc.integer({ min: -2, max: 600 }),
      fc.double(),
      fc.boolean(),
      fc.constantFrom<unknown>(null, '', 'silu', [], {}, 1e300, 2 ** 53),
      fc.jsonValue(),
    );
    const change = fc.dictionary(fc.constantFrom(...Object.keys(original)), value, { minKeys: 1, maxKeys: 3 });
    fc.assert(
      fc.property(change, (settings) => {
        const config = new ConfigReader('config.json', { ...original, ...settings });
        try {
          const quantisation = readQuantisation(config);
          const checkpoint: Checkpoint = { dir, config, quantisation, tensors: new Tensors(dir, tensors, quantisation) };
          expect(describeModel(checkpoint).segments.length).toBeGreaterThan(0);
        } catch (error) {
          if (!(error instanceof SwitchyardError)) throw error;
          expect(error.code).toBe('bad_checkpoint');
          expect(error.message.length).toBeLessThan(2000);
        }
      }),
      { numRuns: 400 },
    );
  },
);

test('settings that say nothing are none', () => {
  const plain = describeFolder('mixtral', { rope_scaling: undefined, rope_parameters: undefined, rope_theta: 5000 });
  const empty = describeFolder('mixtral', { rope_scaling: {}, rope_parameters: undefined, rope_theta: 5000, partial_rotary_factor: 1 });
  expect(empty.ropes).toEqual(plain.ropes);
  expect(describeFolder('phimoe', { router_jitter_noise: 0 }).layers).toBe(describeFolder('phimoe', {}).layers);
});

test("Hunyuan's alpha raises the base once and for all", () => {
  const frequencies = (rope: Record<string, unknown>) =>
    describeFolder('hunyuan_v1_moe', { rope_parameters: rope }).ropes[0]!.variants[0]!.frequencies;
  const raised = frequencies({ rope_theta: 10_000, rope_type: 'dynamic', alpha: 50, factor: 1 });
  expect(raised).toEqual(frequencies({ rope_theta: 10_000 * Math.exp((16 / 14) * Math.log(50)), rope_type: 'default' }));
  expect(() => frequencies({ rope_theta: 10_000, rope_type: 'dynamic', factor: 2 })).toThrow(/"rope_parameters\.rope_type" is "dynamic"/);
});

test('a context is stretched only so far', () => {
  const rope = (factor: number) => ({ rope_scaling: { type: 'yarn', factor, original_max_position_embeddings: 32 } });
  expect(describeFolder('qwen3_moe', rope(524_288)).maxContext).toBe(16_777_216);
  expect(() => describeFolder('qwen3_moe', rope(524_289))).toThrow(
    /"rope_scaling\.factor" is 524289, not one that makes a context of at most 16777216 tokens/,
  );
});

describe('what its own code takes where config.json is silent', () => {
  // A number of heads that nothing divides, so that the heads of keys are told.
  const heads = { mixtral: 8, qwen2_moe: 16, qwen3_moe: 4, phimoe: 8, gpt_oss: 8, dots1: 32, glm4_moe: 8, minimax_m2: 8, ernie4_5_moe: 4 };
  test.each(Object.entries(heads))('%s has keys of %i heads', (folder, count) => {
    expect(() => describeFolder(folder, { num_key_value_heads: undefined, num_attention_heads: 61 })).toThrow(
      `"num_key_value_heads" is ${count}, not a divisor of num_attention_heads (61)`,
    );
  });

  test.each(['olmoe', 'granitemoe', 'granitemoeshared', 'hunyuan_v1_moe'])('%s has as many as of queries', (folder) => {
    expect(() => describeFolder(folder, { num_key_value_heads: undefined, num_attention_heads: 61, head_dim: 2 })).toThrow(
      /_proj\.weight"/,
    );
  });

  test.each(['deepseek_v2', 'deepseek_v3'])('%s has queries of rank 1536, unless it says that they have none', (folder) => {
    expect(() => describeFolder(folder, { q_lora_rank: undefined })).toThrow(
      /"model\.layers\.0\.self_attn\.q_a_proj\.weight" .*\[1536,64\]/,
    );
    expect(() => describeFolder(folder, { q_lora_rank: null })).toThrow(/self_attn\.q_proj\.weight" is missing/);
  });
});

test('a count given per layer must be the same in all of them', () => {
  expect(describeFolder('hunyuan_v1_moe', { moe_topk: [2, 2, 2], num_experts: [8, 8, 8] }).topK).toBe(2);
  expect(() => describeFolder('hunyuan_v1_moe', { moe_topk: [2, 2, 1] })).toThrow(
    /"moe_topk" is \[2,2,1\], not a list of one value for all 3 layers/,
  );
});

test('a config that nests without end is refused before anybody writes it out again', () => {
  const nested = (levels: number) => JSON.parse(`${'['.repeat(levels)}${']'.repeat(levels)}`);
  expect(describeFolder('mixtral', { unread: nested(99) }).layers).toBe(3);
  expect(() => describeFolder('mixtral', { unread: nested(1000) })).toThrow(/config\.json: nests more than 100 levels deep/);
});

test('experts of all layers together have a limit: in one stacked tensor a layer they cost a file next to nothing', () => {
  const dir = path.join(scratch.path, 'stacked');
  mkdirSync(dir);
  const config = { hidden_size: 2, num_attention_heads: 1, num_key_value_heads: 1, head_dim: 2, moe_intermediate_size: 1, vocab_size: 4 };
  const moe = { num_hidden_layers: 65, num_experts: 4096, num_experts_per_tok: 2, max_position_embeddings: 16 };
  writeFileSync(path.join(dir, 'config.json'), JSON.stringify({ model_type: 'qwen3_moe', ...config, ...moe }));
  const tensors = new Map<string, FileTensor>();
  const add = (name: string, ...shape: number[]) =>
    tensors.set(name, { dtype: 'BF16', shape, bytes: new Uint8Array(2 * shape.reduce((a, b) => a * b)) });
  add('model.embed_tokens.weight', 4, 2);
  add('model.norm.weight', 2);
  add('lm_head.weight', 4, 2);
  for (let layer = 0; layer < 65; layer++) {
    const at = `model.layers.${layer}`;
    for (const norm of ['input_layernorm', 'post_attention_layernorm', 'self_attn.q_norm', 'self_attn.k_norm'])
      add(`${at}.${norm}.weight`, 2);
    for (const matrix of ['q', 'k', 'v', 'o']) add(`${at}.self_attn.${matrix}_proj.weight`, 2, 2);
    add(`${at}.mlp.gate.weight`, 4096, 2);
    add(`${at}.mlp.experts.gate_up_proj`, 4096, 2, 2);
    add(`${at}.mlp.experts.down_proj`, 4096, 2, 1);
  }
  writeTensors(path.join(dir, 'model.safetensors'), tensors);
  expect(() => describeModel(openCheckpoint(dir))).toThrow(/layers up to 64 have 266240 experts between them, the limit is 262144/);
});
