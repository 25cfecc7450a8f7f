import type { Checkpoint } from '../../checkpoint/checkpoint.ts';
import { groupedQueryAttention } from '../attention.ts';
import { embedTokens, rmsNorm, vocabularyHead } from '../decoder.ts';
import { readDecoderConfig, readExpertCounts } from '../decoder-config.ts';
import { expertViews, siluBank } from '../expert-tensors.ts';
import type { ModelGraph } from '../graph.ts';
import { GraphBuilder } from '../graph-builder.ts';
import { readRope, rotatedDims } from '../rope.ts';

/** MiniMax-M2: q and k normed over their whole projection, a part of each head rotated, sigmoid gate with a bias for choosing, renormalised. */
export function minimaxM2({ config: stored, tensors }: Checkpoint): ModelGraph {
  const config = stored.defaulting({
    rope_theta: 5e6,
    head_dim: 128,
    num_key_value_heads: 8,
    rms_norm_eps: 1e-6,
    max_position_embeddings: 196_608,
  });
  const sizes = readDecoderConfig(config);
  const { hidden } = sizes;
  const { experts, topK } = readExpertCounts(config, ['num_local_experts', 'num_experts']);
  const inter = config.count('intermediate_size');
  config.choice('scoring_func', ['sigmoid'], 'sigmoid');
  const qkNorm = config.flag('use_qk_norm', true) ? { qkNorm: { over: 'whole' } as const } : {};
  const rotated = config.has('rotary_dim') ? config.count('rotary_dim', undefined, sizes.headDim) : rotatedDims(config, sizes.headDim, 1);
  const rope = readRope(config, rotated, false, { partial: true });

  const g = new GraphBuilder('minimax_m2', sizes);
  const embedding = embedTokens(g, tensors, sizes);
  for (let layer = 0; layer < sizes.layers; layer++) {
    const at = `model.layers.${layer}`;
    rmsNorm(g, tensors, `${at}.input_layernorm`, sizes);
    groupedQueryAttention(g, tensors, {
      layer,
      at: `${at}.self_attn`,
      sizes,
      biases: { qkv: false, out: false },
      ...qkNorm,
      rope,
      window: 0,
    });

    const inputNorm = rmsNorm(g, tensors, `${at}.post_attention_layernorm`, sizes);
    const moe = `${at}.block_sparse_moe`;
    g.mixtureOfExperts({
      layer,
      inputNorm,
      router: tensors.matrix(`${moe}.gate.weight`, experts, hidden),
      selectBias: tensors.vector(`${moe}.e_score_correction_bias`, experts),
      topK,
      rule: { score: 'sigmoid', renorm: true },
      bank: siluBank(
        layer,
        hidden,
        inter,
        expertViews(tensors, `${moe}.experts`, { gate: 'w1', up: 'w3', down: 'w2' }, { experts, hidden, inter }),
      ),
      shared: null,
    });
  }
  return vocabularyHead(g, tensors, sizes, embedding);
}
