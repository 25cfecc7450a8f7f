// What the machine allows: bytes that a step must read over measured bandwidth, operations over peak. Pure functions of a qwen3_moe config.

const bytesPerWeight = { bf16: 2, int8: 1 + 4 / 64 };

/** Weights of one layer outside its experts, of one expert, and of the output head, in parameters. */
export function parameters(config) {
  const {
    hidden_size: h,
    head_dim: d,
    num_attention_heads: q,
    num_key_value_heads: kv,
    moe_intermediate_size: inter,
    num_experts: experts,
  } = config;
  return {
    attention: h * d * (q + 2 * kv) + q * d * h,
    router: h * experts,
    expert: 3 * h * inter,
    head: config.vocab_size * h,
    layers: config.num_hidden_layers,
    experts,
    topK: config.num_experts_per_tok,
  };
}

/** Experts of one layer that `batch` tokens touch when they choose evenly. */
export function distinctExperts({ experts, topK }, batch) {
  return experts * (1 - (1 - topK / experts) ** batch);
}

/** Bytes of weights that one decode step of `batch` sequences reads, each distinct expert once, if sequences choose evenly and each by itself: alike ones read fewer. */
export function stepBytes(config, batch, format = 'bf16') {
  const p = parameters(config);
  const dense = p.layers * p.attention + p.head;
  return (dense + p.layers * distinctExperts(p, batch) * p.expert) * bytesPerWeight[format] + p.layers * p.router * 4;
}

/** Multiply-adds of one token, attention over the context left out. */
export function tokenOperations(config) {
  const p = parameters(config);
  return 2 * (p.layers * (p.attention + p.router + p.topK * p.expert) + p.head);
}

/** Tokens per second at which memory or arithmetic is all that is waited for: decode at a batch, and prefill. bandwidth in bytes/s, peak in operations/s. */
export const decodeBound = (config, batch, bandwidth, format) => (batch * bandwidth) / stepBytes(config, batch, format);
export const prefillBound = (config, peak) => peak / (tokenOperations(config) - 2 * parameters(config).head);
