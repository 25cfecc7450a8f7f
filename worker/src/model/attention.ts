import type { Tensors } from '../checkpoint/tensors.ts';
import type { DecoderConfig } from './decoder-config.ts';
import { columns, type GraphBuilder } from './graph-builder.ts';
import type { Rope } from './rope.ts';

export interface AttentionSpec {
  layer: number;
  /** e.g. "model.layers.3.self_attn"; projections are `q_proj`, `k_proj`, `v_proj`, `o_proj`. */
  at: string;
  sizes: DecoderConfig;
  biases: { qkv: boolean; out: boolean };
  rope: Rope | null;
  /** 0: every earlier token is visible. */
  window: number;
  /** Default 1/sqrt(headDim). */
  scale?: number;
  qkNorm?: QueryKeyNorm;
  /** Clamp of q, k and v, after the norms. */
  clip?: number;
  /** Tensor of one more score per head. */
  sinks?: string;
  /** Factor of the result in the residual stream. */
  multiplier?: number;
}

/** RMSNorm of q and k: over each head or over the whole projection, before the rotation or after it. */
export interface QueryKeyNorm {
  over: 'head' | 'whole';
  /** Default `q_norm` and `k_norm`. */
  names?: { q: string; k: string };
  afterRope?: boolean;
}

/**
 * Grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245) from `normed` into `residual`. q, k and v are one projection, laid side by side:
 * (rows, heads*headDim | kvHeads*headDim | kvHeads*headDim).
 */
export function groupedQueryAttention(g: GraphBuilder, tensors: Tensors, spec: AttentionSpec): void {
  const { layer, at, rope } = spec;
  const { hidden, heads, kvHeads, headDim, eps } = spec.sizes;
  const qWidth = heads * headDim;
  const kvWidth = kvHeads * headDim;
  const qkv = g.slot('qkv', qWidth + 2 * kvWidth);
  const q = columns(qkv, 0);
  const k = columns(qkv, qWidth);
  const v = columns(qkv, qWidth + kvWidth);

  const bias = (present: boolean, name: string, width: number) => (present ? tensors.vector(`${at}.${name}.bias`, width) : null);
  g.linear({
    name: `layers.${layer}.qkv`,
    part: 'attention',
    x: columns(g.normed),
    out: q,
    weights: [
      tensors.matrix(`${at}.q_proj.weight`, qWidth, hidden),
      tensors.matrix(`${at}.k_proj.weight`, kvWidth, hidden),
      tensors.matrix(`${at}.v_proj.weight`, kvWidth, hidden),
    ],
    biases: [bias(spec.biases.qkv, 'q_proj', qWidth), bias(spec.biases.qkv, 'k_proj', kvWidth), bias(spec.biases.qkv, 'v_proj', kvWidth)],
  });

  // Heads of q and k lie side by side, so what is done to each of them is one op.
  const normalise = () => {
    const { over, names = { q: 'q_norm', k: 'k_norm' } } = spec.qkNorm!;
    const name = `layers.${layer}.qk_norm`;
    const weight = (norm: string, width: number) => tensors.vector(`${at}.${norm}.weight`, width);
    if (over === 'head') {
      const weights = [...Array(heads).fill(weight(names.q, headDim)), ...Array(kvHeads).fill(weight(names.k, headDim))];
      g.norm({ name, kind: 'rms', eps, x: q, out: q, groups: heads + kvHeads, width: headDim, weights });
    } else {
      g.norm({ name: `${name}.q`, kind: 'rms', eps, x: q, out: q, width: qWidth, weights: [weight(names.q, qWidth)] });
      g.norm({ name: `${name}.k`, kind: 'rms', eps, x: k, out: k, width: kvWidth, weights: [weight(names.k, kvWidth)] });
    }
  };
  if (spec.qkNorm && !spec.qkNorm.afterRope) normalise();
  if (spec.clip !== undefined) g.clamp(q, qWidth + 2 * kvWidth, spec.clip);
  if (rope !== null) g.rope(rope, q, heads + kvHeads, headDim);
  if (spec.qkNorm?.afterRope) normalise();

  const cache = g.cache({ layer, kvHeads, kDim: headDim, vDim: headDim, vSharesK: false });
  g.kvWrite(cache, k, headDim, v, headDim);
  const attended = g.slot('attended', qWidth);
  g.attention({
    cache,
    q,
    qStride: headDim,
    out: columns(attended),
    outStride: headDim,
    heads,
    scale: spec.scale ?? 1 / Math.sqrt(headDim),
    window: spec.window,
    ...(spec.sinks === undefined ? {} : { sinks: tensors.vector(spec.sinks, heads) }),
  });
  g.linear({
    name: `layers.${layer}.attentionOut`,
    part: 'attention',
    x: columns(attended),
    out: columns(g.residual),
    weights: [tensors.matrix(`${at}.o_proj.weight`, hidden, qWidth)],
    biases: [bias(spec.biases.out, 'o_proj', hidden)],
    mode: 'add',
    scale: spec.multiplier ?? 1,
  });
}
