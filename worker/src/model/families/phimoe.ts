import type { Checkpoint } from '../../checkpoint/checkpoint.ts';
import { groupedQueryAttention } from '../attention.ts';
import { embedTokens, headWeight } from '../decoder.ts';
import { readDecoderConfig, readExpertCounts } from '../decoder-config.ts';
import { expertViews, siluBank } from '../expert-tensors.ts';
import type { Constant, ModelGraph } from '../graph.ts';
import { columns, GraphBuilder } from '../graph-builder.ts';
import { readRope } from '../rope.ts';

/** Phi-3.5-MoE (arXiv:2404.14219): LayerNorm with bias, LongRoPE, and the SparseMixer router, which picks exactly two experts one after the other. */
export function phiMoe({ config: stored, tensors }: Checkpoint): ModelGraph {
  const config = stored.defaulting({ rope_theta: 1e6, num_key_value_heads: 8, rms_norm_eps: 1e-5, max_position_embeddings: 131_072 });
  const sizes = readDecoderConfig(config);
  const { hidden, vocab, eps } = sizes;
  const { experts, topK } = readExpertCounts(config, ['num_local_experts', 'num_experts']);
  if (topK !== 2) throw config.refusal('num_experts_per_tok', '2, which SparseMixer is defined for');
  const inter = config.count('intermediate_size');
  const biased = config.flag('attention_bias', false);
  const headBiased = config.flag('lm_head_bias', false);
  const jitterEps = config.nonNegative('router_jitter_noise', 0.01);
  const window = config.index('sliding_window', 0);
  // The reference (transformers 5.23) keeps the short divisors at every length and switches the magnitude alone; the code first published with Phi-3.5-MoE
  // switched both. Our golden files hold the former; sequences within the original context are the same in either.
  const rope = readRope(config, sizes.headDim, false, { divisors: 'always short' });

  const g = new GraphBuilder('phimoe', sizes);
  const layerNorm = (at: string): Constant =>
    g.norm({
      name: at,
      kind: 'layer',
      eps,
      x: columns(g.residual),
      out: columns(g.normed),
      width: hidden,
      weights: [tensors.vector(`${at}.weight`, hidden)],
      bias: tensors.vector(`${at}.bias`, hidden),
    })!;
  const embedding = embedTokens(g, tensors, sizes);
  for (let layer = 0; layer < sizes.layers; layer++) {
    const at = `model.layers.${layer}`;
    layerNorm(`${at}.input_layernorm`);
    groupedQueryAttention(g, tensors, { layer, at: `${at}.self_attn`, sizes, biases: { qkv: biased, out: biased }, rope, window });

    const inputNorm = layerNorm(`${at}.post_attention_layernorm`);
    // transformers 5 may name the block as its other families do.
    const moe = tensors.has(`${at}.mlp.experts.gate_up_proj`) ? `${at}.mlp` : `${at}.block_sparse_moe`;
    const router = tensors.firstOf(`${moe}.gate.weight`, `${moe}.router.weight`);
    g.mixtureOfExperts({
      layer,
      inputNorm,
      router: tensors.matrix(router, experts, hidden),
      topK,
      rule: { score: 'sparse_mixer', renorm: false, jitterEps },
      bank: siluBank(
        layer,
        hidden,
        inter,
        expertViews(tensors, `${moe}.experts`, { gate: 'w1', up: 'w3', down: 'w2' }, { experts, hidden, inter }),
      ),
      shared: null,
    });
  }
  return g.head({
    norm: { kind: 'layer', eps, weights: [tensors.vector('model.norm.weight', hidden)], bias: tensors.vector('model.norm.bias', hidden) },
    weight: headWeight(tensors, sizes, embedding),
    bias: headBiased ? tensors.vector('lm_head.bias', vocab) : null,
  });
}
