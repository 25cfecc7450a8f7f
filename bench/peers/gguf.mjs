// Writes a qwen3_moe directory as GGUF v3, so that llama.cpp is measured on the same weights: `node gguf.mjs MODEL_DIR OUT.gguf [bf16|q8_0]`.
// Matrices are bf16 (or Q8_0 blocks of 32: f16 scale, 32 int8), norms and router f32, as llama.cpp's own converter lays them out.
import { closeSync, openSync, readFileSync, renameSync, writeSync } from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { openSafetensors } from './safetensors.mjs';

const ALIGNMENT = 32;
const TYPE = { F32: 0, Q8_0: 8, BF16: 30 };
const KV = { u32: 4, i32: 5, f32: 6, bool: 7, string: 8, array: 9 };

class Writer {
  parts = [];
  u32(v) {
    const b = Buffer.alloc(4);
    b.writeUInt32LE(v);
    this.parts.push(b);
  }
  u64(v) {
    const b = Buffer.alloc(8);
    b.writeBigUInt64LE(BigInt(v));
    this.parts.push(b);
  }
  f32(v) {
    const b = Buffer.alloc(4);
    b.writeFloatLE(v);
    this.parts.push(b);
  }
  string(v) {
    const b = Buffer.from(v, 'utf8');
    this.u64(b.length);
    this.parts.push(b);
  }
  pair(key, type, value) {
    this.string(key);
    this.u32(KV[type]);
    if (type === 'u32') this.u32(value);
    else if (type === 'f32') this.f32(value);
    else if (type === 'bool') this.parts.push(Buffer.from([value ? 1 : 0]));
    else if (type === 'string') this.string(value);
  }
  array(key, type, values) {
    this.string(key);
    this.u32(KV.array);
    this.u32(KV[type]);
    this.u64(values.length);
    for (const v of values) type === 'string' ? this.string(v) : this.u32(v);
  }
  bytes() {
    return Buffer.concat(this.parts);
  }
}

function tokenizerPairs(out, dir, vocab) {
  const tokenizer = JSON.parse(readFileSync(path.join(dir, 'tokenizer.json'), 'utf8'));
  const config = JSON.parse(readFileSync(path.join(dir, 'tokenizer_config.json'), 'utf8'));
  const tokens = Array.from({ length: vocab }, (_, i) => `<unused${i}>`);
  const kinds = new Array(vocab).fill(5); // unused
  for (const [token, id] of Object.entries(tokenizer.model.vocab)) [tokens[id], kinds[id]] = [token, 1];
  for (const t of tokenizer.added_tokens ?? []) [tokens[t.id], kinds[t.id]] = [t.content, t.special ? 3 : 4];
  out.pair('tokenizer.ggml.model', 'string', 'gpt2');
  out.pair('tokenizer.ggml.pre', 'string', 'qwen2');
  out.array('tokenizer.ggml.tokens', 'string', tokens);
  out.array('tokenizer.ggml.token_type', 'i32', kinds);
  out.array(
    'tokenizer.ggml.merges',
    'string',
    tokenizer.model.merges.map((m) => (Array.isArray(m) ? m.join(' ') : m)),
  );
  out.pair('tokenizer.ggml.eos_token_id', 'u32', 2);
  out.pair('tokenizer.ggml.padding_token_id', 'u32', 0);
  out.pair('tokenizer.ggml.add_bos_token', 'bool', false);
  out.pair('tokenizer.chat_template', 'string', config.chat_template);
}

/** bf16 bytes -> f32 */
function widen(bytes) {
  const from = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2);
  const bits = new Uint32Array(from.length);
  for (let i = 0; i < from.length; i++) bits[i] = from[i] << 16;
  return new Float32Array(bits.buffer);
}

const f16Bits = (() => {
  const f = new Float32Array(1);
  const u = new Uint32Array(f.buffer);
  return (value) => {
    f[0] = value; // positive normal numbers only: block scales
    const e = ((u[0] >>> 23) & 255) - 112;
    if (e <= 0) return 0;
    const m = u[0] & 0x7fffff;
    return ((e << 10) | (m >>> 13)) + ((m & 0x1fff) > 0x1000 || (m & 0x3fff) === 0x3000 ? 1 : 0);
  };
})();

function q8Blocks(values) {
  const out = Buffer.alloc((values.length / 32) * 34);
  for (let b = 0, o = 0; b < values.length; b += 32, o += 34) {
    let max = 0;
    for (let i = 0; i < 32; i++) max = Math.max(max, Math.abs(values[b + i]));
    out.writeUInt16LE(f16Bits(max / 127), o);
    const inverse = max === 0 ? 0 : 127 / max;
    for (let i = 0; i < 32; i++) out.writeInt8(Math.round(values[b + i] * inverse), o + 2 + i);
  }
  return out;
}

/** llama.cpp tensor name -> checkpoint tensors, stacked along a new first axis when there are several */
function tensorPlan(config) {
  const plan = [{ name: 'token_embd.weight', from: ['model.embed_tokens.weight'], matrix: true }];
  plan.push({ name: 'output_norm.weight', from: ['model.norm.weight'], matrix: false });
  if (!config.tie_word_embeddings) plan.push({ name: 'output.weight', from: ['lm_head.weight'], matrix: true });
  for (let l = 0; l < config.num_hidden_layers; l++) {
    const p = `model.layers.${l}.`;
    const experts = (part) => Array.from({ length: config.num_experts }, (_, e) => `${p}mlp.experts.${e}.${part}_proj.weight`);
    const add = (name, from, matrix) =>
      plan.push({ name: `blk.${l}.${name}.weight`, from: Array.isArray(from) ? from : [p + from], matrix });
    add('attn_norm', 'input_layernorm.weight', false);
    add('ffn_norm', 'post_attention_layernorm.weight', false);
    add('attn_q', 'self_attn.q_proj.weight', true);
    add('attn_k', 'self_attn.k_proj.weight', true);
    add('attn_v', 'self_attn.v_proj.weight', true);
    add('attn_output', 'self_attn.o_proj.weight', true);
    add('attn_q_norm', 'self_attn.q_norm.weight', false);
    add('attn_k_norm', 'self_attn.k_norm.weight', false);
    add('ffn_gate_inp', 'mlp.gate.weight', false);
    add('ffn_gate_exps', experts('gate'), true);
    add('ffn_up_exps', experts('up'), true);
    add('ffn_down_exps', experts('down'), true);
  }
  return plan;
}

export function convertToGguf(dir, file, format = 'bf16') {
  const config = JSON.parse(readFileSync(path.join(dir, 'config.json'), 'utf8'));
  if (config.model_type !== 'qwen3_moe') throw new Error(`gguf: model_type is ${config.model_type}, only qwen3_moe is converted`);
  const tensors = openSafetensors(dir);
  const matrixType = format === 'q8_0' ? TYPE.Q8_0 : TYPE.BF16;
  const size = (type, count) => (type === TYPE.F32 ? count * 4 : type === TYPE.BF16 ? count * 2 : (count / 32) * 34);
  const plan = tensorPlan(config).map((t) => {
    const shape = tensors.get(t.from[0]).shape;
    const count = shape.reduce((a, b) => a * b, 1) * t.from.length;
    const type = t.matrix ? matrixType : TYPE.F32;
    return { ...t, shape: t.from.length > 1 ? [t.from.length, ...shape] : shape, type, bytes: size(type, count) };
  });

  const pairs = new Writer();
  const arch = 'qwen3moe';
  pairs.pair('general.architecture', 'string', arch);
  pairs.pair('general.name', 'string', path.basename(dir));
  pairs.pair('general.file_type', 'u32', format === 'q8_0' ? 7 : 32);
  const numbers = {
    block_count: config.num_hidden_layers,
    context_length: config.max_position_embeddings,
    embedding_length: config.hidden_size,
    feed_forward_length: config.intermediate_size,
    'attention.head_count': config.num_attention_heads,
    'attention.head_count_kv': config.num_key_value_heads,
    'attention.key_length': config.head_dim,
    'attention.value_length': config.head_dim,
    vocab_size: config.vocab_size,
    expert_count: config.num_experts,
    expert_used_count: config.num_experts_per_tok,
    expert_feed_forward_length: config.moe_intermediate_size,
  };
  for (const [key, value] of Object.entries(numbers)) pairs.pair(`${arch}.${key}`, 'u32', value);
  pairs.pair(`${arch}.attention.layer_norm_rms_epsilon`, 'f32', config.rms_norm_eps);
  pairs.pair(`${arch}.rope.freq_base`, 'f32', config.rope_theta);
  let pairCount = 3 + Object.keys(numbers).length + 2;
  tokenizerPairs(pairs, dir, config.vocab_size);
  pairCount += 9;

  const head = new Writer();
  head.parts.push(Buffer.from('GGUF'));
  head.u32(3);
  head.u64(plan.length);
  head.u64(pairCount);
  const infos = new Writer();
  let offset = 0;
  for (const t of plan) {
    infos.string(t.name);
    infos.u32(t.shape.length);
    for (const d of [...t.shape].reverse()) infos.u64(d); // GGUF counts the fastest dimension first
    infos.u32(t.type);
    infos.u64(offset);
    offset += Math.ceil(t.bytes / ALIGNMENT) * ALIGNMENT;
  }
  const meta = Buffer.concat([head.bytes(), pairs.bytes(), infos.bytes()]);
  // Under its name only once it is whole: what an interrupted run has begun is no model to measure.
  const fd = openSync(`${file}.part`, 'w');
  writeSync(fd, meta);
  writeSync(fd, Buffer.alloc((ALIGNMENT - (meta.length % ALIGNMENT)) % ALIGNMENT));
  for (const t of plan) {
    let written = 0;
    for (const from of t.from) {
      const raw = tensors.get(from).read();
      let bytes = raw;
      if (t.type === TYPE.F32) bytes = Buffer.from(widen(raw).buffer);
      if (t.type === TYPE.Q8_0) bytes = q8Blocks(widen(raw));
      writeSync(fd, bytes);
      written += bytes.length;
    }
    writeSync(fd, Buffer.alloc((ALIGNMENT - (written % ALIGNMENT)) % ALIGNMENT));
  }
  closeSync(fd);
  renameSync(`${file}.part`, file);
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [dir, file, format] = process.argv.slice(2);
  if (!dir || !file) {
    process.stderr.write('usage: node gguf.mjs MODEL_DIR OUT.gguf [bf16|q8_0]\n');
    process.exit(2);
  }
  convertToGguf(dir, file, format);
}
