import type { Checkpoint } from '../../checkpoint/checkpoint.ts';
import { groupedQueryAttention } from '../attention.ts';
import { embedTokens, rmsNorm, vocabularyHead } from '../decoder.ts';
import { readDecoderConfig, readExpertCounts } from '../decoder-config.ts';
import { expertViews, siluBank } from '../expert-tensors.ts';
import type { ModelGraph } from '../graph.ts';
import { GraphBuilder } from '../graph-builder.ts';
import { readRope } from '../rope.ts';

/** OLMoE (Muennighoff et al. 2024, arXiv:2409.02060): q and k are normed over their whole projection and may be clipped; weights need not sum to one. */
export function olmoe({ config: stored, tensors }: Checkpoint): ModelGraph {
  const config = stored.defaulting({ rms_norm_eps: 1e-5, max_position_embeddings: 4096 });
  const sizes = readDecoderConfig(config);
  const { hidden } = sizes;
  const { experts, topK } = readExpertCounts(config, ['num_experts', 'num_local_experts']);
  const inter = config.count('intermediate_size');
  const renorm = config.flag('norm_topk_prob', false);
  const biased = config.flag('attention_bias', false);
  const clip = config.has('clip_qkv') ? { clip: config.positive('clip_qkv') } : {};
  const rope = readRope(config, sizes.headDim, false);

  const g = new GraphBuilder('olmoe', sizes);
  const embedding = embedTokens(g, tensors, sizes);
  for (let layer = 0; layer < sizes.layers; layer++) {
    const at = `model.layers.${layer}`;
    rmsNorm(g, tensors, `${at}.input_layernorm`, sizes);
    groupedQueryAttention(g, tensors, {
      layer,
      at: `${at}.self_attn`,
      sizes,
      biases: { qkv: biased, out: biased },
      qkNorm: { over: 'whole' },
      ...clip,
      rope,
      window: 0,
    });

    const inputNorm = rmsNorm(g, tensors, `${at}.post_attention_layernorm`, sizes);
    const names = { gate: 'gate_proj', up: 'up_proj', down: 'down_proj' };
    g.mixtureOfExperts({
      layer,
      inputNorm,
      router: tensors.matrix(`${at}.mlp.gate.weight`, experts, hidden),
      topK,
      rule: { score: 'softmax', renorm },
      bank: siluBank(layer, hidden, inter, expertViews(tensors, `${at}.mlp.experts`, names, { experts, hidden, inter })),
      shared: null,
    });
  }
  return vocabularyHead(g, tensors, sizes, embedding);
}
