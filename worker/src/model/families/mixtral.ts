import type { Checkpoint } from '../../checkpoint/checkpoint.ts';
import { groupedQueryAttention } from '../attention.ts';
import { embedTokens, rmsNorm, vocabularyHead } from '../decoder.ts';
import { readDecoderConfig, readExpertCounts } from '../decoder-config.ts';
import { expertViews, siluBank } from '../expert-tensors.ts';
import type { ModelGraph } from '../graph.ts';
import { GraphBuilder } from '../graph-builder.ts';
import { readRope } from '../rope.ts';

/** Mixtral (Jiang et al. 2024, arXiv:2401.04088): every layer sends a token to k of E experts by softmax, renormalised. */
export function mixtral({ config: stored, tensors }: Checkpoint): ModelGraph {
  const config = stored.defaulting({ rope_theta: 1e6, num_key_value_heads: 8, rms_norm_eps: 1e-5, max_position_embeddings: 131_072 });
  const sizes = readDecoderConfig(config);
  const { hidden } = sizes;
  const { experts, topK } = readExpertCounts(config, ['num_local_experts', 'num_experts']);
  const inter = config.count('intermediate_size');
  const window = config.index('sliding_window', 0);
  const rope = readRope(config, sizes.headDim, false);

  const g = new GraphBuilder('mixtral', sizes);
  const embedding = embedTokens(g, tensors, sizes);
  for (let layer = 0; layer < sizes.layers; layer++) {
    const at = `model.layers.${layer}`;
    rmsNorm(g, tensors, `${at}.input_layernorm`, sizes);
    groupedQueryAttention(g, tensors, { layer, at: `${at}.self_attn`, sizes, biases: { qkv: false, out: false }, rope, window });

    const inputNorm = rmsNorm(g, tensors, `${at}.post_attention_layernorm`, sizes);
    // transformers 5 may name the block as its other families do.
    const moe = tensors.has(`${at}.mlp.gate.weight`) ? `${at}.mlp` : `${at}.block_sparse_moe`;
    g.mixtureOfExperts({
      layer,
      inputNorm,
      router: tensors.matrix(`${moe}.gate.weight`, experts, hidden),
      topK,
      rule: { score: 'softmax', renorm: true },
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
