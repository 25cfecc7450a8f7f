import type { ConfigReader } from '../checkpoint/config-reader.ts';
import { rowsOf, transposed } from '../checkpoint/tensor-view.ts';
import type { Tensors } from '../checkpoint/tensors.ts';
import type { DecoderConfig } from './decoder-config.ts';
import { columns, type GraphBuilder } from './graph-builder.ts';
import { type Rope, readRopeSettings, yarnMscale } from './rope.ts';

/** Sizes of multi-head latent attention. */
export interface LatentConfig {
  /** Rank of the query's factorisation; null: one full projection. */
  qRank: number | null;
  /** Width of the cached latent. */
  kvRank: number;
  /** Per head: dims without position, dims with, dims of the value. */
  nope: number;
  rope: number;
  value: number;
  /** Attention scale, with YaRN's squared correction. */
  scale: number;
  /** Biases of q_a and kv_a projections and of the output. */
  bias: boolean;
}

/** Latent norms keep their class's default in published checkpoints' code, whatever rms_norm_eps says. */
const latentNormEps = 1e-6;

export function readLatentConfig(config: ConfigReader): LatentConfig {
  const nope = config.count('qk_nope_head_dim');
  const rope = config.count('qk_rope_head_dim');
  const { type, scaling } = readRopeSettings(config);
  const mscaleAllDim = type === 'yarn' ? scaling!.nonNegative('mscale_all_dim', 0) : 0;
  const mscale = mscaleAllDim === 0 ? 1 : yarnMscale(scaling!.positive('factor'), mscaleAllDim);
  return {
    qRank: config.has('q_lora_rank') ? config.count('q_lora_rank') : null,
    kvRank: config.count('kv_lora_rank'),
    nope,
    rope,
    value: config.count('v_head_dim'),
    scale: (mscale * mscale) / Math.sqrt(nope + rope),
    bias: config.flag('attention_bias', false),
  };
}

/**
 * Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434) in the absorbed form, prefill and decode alike, so that both give the same bits. Cached per
 * token: the normed latent c and one rotated key, (kvRank | rope), shared by all heads. With W_h = kv_b of head h, split into rows for k (nope) and v:
 *   score = (W_h[k]ᵀ q_nope)·c + q_rope·k_rope ;  out_h = W_h[v] (Σ p c)
 */
export function latentAttention(
  g: GraphBuilder,
  tensors: Tensors,
  spec: { layer: number; at: string; sizes: DecoderConfig; latent: LatentConfig; rope: Rope },
): void {
  const { layer, at, rope } = spec;
  const { hidden, heads } = spec.sizes;
  const { qRank, kvRank, nope, value, scale, bias } = spec.latent;
  const keyWidth = kvRank + spec.latent.rope;
  const queryWidth = nope + spec.latent.rope;
  const biasOf = (name: string, width: number) => (bias ? tensors.vector(`${at}.${name}.bias`, width) : null);

  // Down projections side by side: (latent | rotary key | query latent).
  const down = g.slot('latents', keyWidth + (qRank ?? 0));
  const latent = columns(down, 0);
  const key = columns(down, kvRank);
  const queryLatent = columns(down, keyWidth);
  const keyDown = tensors.matrix(`${at}.kv_a_proj_with_mqa.weight`, keyWidth, hidden);
  g.linear({
    name: `layers.${layer}.latents`,
    part: 'attention',
    x: columns(g.normed),
    out: latent,
    weights: qRank === null ? [keyDown] : [keyDown, tensors.matrix(`${at}.q_a_proj.weight`, qRank, hidden)],
    biases: qRank === null ? [biasOf('kv_a_proj_with_mqa', keyWidth)] : [biasOf('kv_a_proj_with_mqa', keyWidth), biasOf('q_a_proj', qRank)],
  });
  const normed = { kind: 'rms', eps: latentNormEps } as const;
  g.norm({
    ...normed,
    name: `layers.${layer}.kv_a_norm`,
    x: latent,
    out: latent,
    width: kvRank,
    weights: [tensors.vector(`${at}.kv_a_layernorm.weight`, kvRank)],
  });
  if (qRank !== null)
    g.norm({
      ...normed,
      name: `layers.${layer}.q_a_norm`,
      x: queryLatent,
      out: queryLatent,
      width: qRank,
      weights: [tensors.vector(`${at}.q_a_layernorm.weight`, qRank)],
    });

  // Queries: positionless parts packed head by head, rotary parts straight to where attention reads them, behind each head's absorbed query.
  const queryIn = qRank === null ? columns(g.normed) : queryLatent;
  const queryUp =
    qRank === null
      ? tensors.matrix(`${at}.q_proj.weight`, heads * queryWidth, hidden)
      : tensors.matrix(`${at}.q_b_proj.weight`, heads * queryWidth, qRank);
  const perHead = Array.from({ length: heads }, (_, h) => h);
  const positionless = g.slot('positionless', heads * nope);
  const query = g.slot('absorbed', heads * keyWidth);
  g.linear({
    name: `layers.${layer}.queryNope`,
    part: 'attention',
    x: queryIn,
    out: columns(positionless),
    weights: perHead.map((h) => rowsOf(queryUp, h * queryWidth, nope)),
  });
  g.headLinear({
    name: `layers.${layer}.queryRope`,
    part: 'attention',
    x: queryIn,
    xStride: 0,
    out: columns(query, kvRank),
    outStride: keyWidth,
    weights: perHead.map((h) => rowsOf(queryUp, h * queryWidth + nope, spec.latent.rope)),
  });
  const kvUp = tensors.matrix(`${at}.kv_b_proj.weight`, heads * (nope + value), kvRank);
  g.headLinear({
    name: `layers.${layer}.queryAbsorb`,
    part: 'attention',
    x: columns(positionless),
    xStride: nope,
    out: columns(query),
    outStride: keyWidth,
    weights: perHead.map((h) => transposed(rowsOf(kvUp, h * (nope + value), nope))),
  });
  g.rope(rope, columns(query, kvRank), heads, keyWidth);
  g.rope(rope, key, 1, spec.latent.rope);

  const cache = g.cache({ layer, kvHeads: 1, kDim: keyWidth, vDim: kvRank, vSharesK: true });
  g.kvWrite(cache, latent, keyWidth, null, 0);
  const mixed = g.slot('mixedLatents', heads * kvRank);
  g.attention({ cache, q: columns(query), qStride: keyWidth, out: columns(mixed), outStride: kvRank, heads, scale });
  const attended = g.slot('attended', heads * value);
  g.headLinear({
    name: `layers.${layer}.values`,
    part: 'attention',
    x: columns(mixed),
    xStride: kvRank,
    out: columns(attended),
    outStride: value,
    weights: perHead.map((h) => rowsOf(kvUp, h * (nope + value) + nope, value)),
  });
  g.linear({
    name: `layers.${layer}.attentionOut`,
    part: 'attention',
    x: columns(attended),
    out: columns(g.residual),
    weights: [tensors.matrix(`${at}.o_proj.weight`, hidden, heads * value)],
    biases: [biasOf('o_proj', hidden)],
    mode: 'add',
  });
}
