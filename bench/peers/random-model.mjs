// A random qwen3_moe of a chosen size, to measure speed where no published checkpoint is at hand: `node random-model.mjs OUT_DIR TOKENIZER_DIR`.
// The default is the "middle" model: 942 M parameters, 1.88 GB in bf16, 0.30 GB of them read for one token alone.
import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { writeSafetensors } from './safetensors.mjs';

export const MIDDLE = {
  hidden_size: 1024,
  num_hidden_layers: 12,
  num_attention_heads: 16,
  num_key_value_heads: 4,
  head_dim: 64,
  num_experts: 64,
  num_experts_per_tok: 8,
  moe_intermediate_size: 384,
  intermediate_size: 1536,
  vocab_size: 4096,
};

/** Fills bf16 with a triangular distribution of the given standard deviation: two xorshift words a value, exact in every run. */
function randomMatrix(seed, deviation) {
  return (bytes) => {
    const out = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2);
    let s = (seed * 2654435761 + 12345) >>> 0 || 1;
    const scale = (deviation * Math.sqrt(6)) / 2 ** 32;
    const f = new Float32Array(1);
    const u = new Uint32Array(f.buffer);
    for (let i = 0; i < out.length; i++) {
      s ^= s << 13;
      s ^= s >>> 17;
      s ^= s << 5;
      const a = s >>> 0;
      s ^= s << 13;
      s ^= s >>> 17;
      s ^= s << 5;
      f[0] = (a - (s >>> 0)) * scale;
      out[i] = (u[0] + 0x8000) >>> 16;
    }
  };
}

const ones = (bytes) => new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2).fill(0x3f80);

export function writeRandomModel(dir, tokenizerDir, size = MIDDLE) {
  mkdirSync(dir, { recursive: true });
  const { hidden_size: h, head_dim: d, num_attention_heads: q, num_key_value_heads: kv, moe_intermediate_size: inter } = size;
  const tensors = [];
  const matrix = (name, n, k) => {
    tensors.push({ name, dtype: 'BF16', shape: [n, k], fill: randomMatrix(tensors.length + 1, 1 / Math.sqrt(k)) });
  };
  const norm = (name, n) => tensors.push({ name, dtype: 'BF16', shape: [n], fill: ones });
  matrix('model.embed_tokens.weight', size.vocab_size, h);
  for (let l = 0; l < size.num_hidden_layers; l++) {
    const p = `model.layers.${l}.`;
    norm(`${p}input_layernorm.weight`, h);
    norm(`${p}post_attention_layernorm.weight`, h);
    norm(`${p}self_attn.q_norm.weight`, d);
    norm(`${p}self_attn.k_norm.weight`, d);
    matrix(`${p}self_attn.q_proj.weight`, q * d, h);
    matrix(`${p}self_attn.k_proj.weight`, kv * d, h);
    matrix(`${p}self_attn.v_proj.weight`, kv * d, h);
    matrix(`${p}self_attn.o_proj.weight`, h, q * d);
    matrix(`${p}mlp.gate.weight`, size.num_experts, h);
    for (let e = 0; e < size.num_experts; e++) {
      matrix(`${p}mlp.experts.${e}.gate_proj.weight`, inter, h);
      matrix(`${p}mlp.experts.${e}.up_proj.weight`, inter, h);
      matrix(`${p}mlp.experts.${e}.down_proj.weight`, h, inter);
    }
  }
  norm('model.norm.weight', h);
  matrix('lm_head.weight', size.vocab_size, h);
  writeSafetensors(path.join(dir, 'model.safetensors'), tensors);
  const config = {
    architectures: ['Qwen3MoeForCausalLM'],
    model_type: 'qwen3_moe',
    ...size,
    norm_topk_prob: true,
    decoder_sparse_step: 1,
    mlp_only_layers: [],
    hidden_act: 'silu',
    rms_norm_eps: 1e-6,
    rope_theta: 10000,
    rope_scaling: null,
    max_position_embeddings: 2048,
    tie_word_embeddings: false,
    attention_bias: false,
    attention_dropout: 0,
    use_sliding_window: false,
    sliding_window: null,
    bos_token_id: null,
    eos_token_id: 2,
    pad_token_id: 0,
    torch_dtype: 'bfloat16',
  };
  writeFileSync(path.join(dir, 'config.json'), `${JSON.stringify(config, null, 2)}\n`);
  for (const file of ['tokenizer.json', 'tokenizer_config.json', 'generation_config.json'])
    copyFileSync(path.join(tokenizerDir, file), path.join(dir, file));
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [dir, tokenizerDir] = process.argv.slice(2);
  if (!dir || !tokenizerDir) {
    process.stderr.write('usage: node random-model.mjs OUT_DIR TOKENIZER_DIR\n');
    process.exit(2);
  }
  writeRandomModel(dir, tokenizerDir);
}
