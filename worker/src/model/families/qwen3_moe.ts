import type { Checkpoint } from '../../checkpoint/checkpoint.ts';
import { groupedQueryAttention } from '../attention.ts';
import { embedTokens, rmsNorm, vocabularyHead } from '../decoder.ts';
import { readDecoderConfig, readExpertCounts } from '../decoder-config.ts';
import { expertViews, siluBank } from '../expert-tensors.ts';
import type { ModelGraph } from '../graph.ts';
import { GraphBuilder } from '../graph-builder.ts';
import { denseMlp, projections } from '../mlp.ts';
import { readRope } from '../rope.ts';
import { isSparseLayer } from '../sparse-layers.ts';

/** Qwen3-MoE (arXiv:2505.09388): q and k are normed per head before they are rotated; no shared expert. */
export function qwen3Moe({ config: stored, tensors }: Checkpoint): ModelGraph {
  const config = stored.defaulting({ sliding_window: 4096, num_key_value_heads: 4, rms_norm_eps: 1e-6, max_position_embeddings: 32_768 });
  const sizes = readDecoderConfig(config);
  const { hidden } = sizes;
  const { experts, topK } = readExpertCounts(config, ['num_experts', 'num_local_experts']);
  const inter = config.count('moe_intermediate_size');
  const renorm = config.flag('norm_topk_prob', false);
  const biased = config.flag('attention_bias', false);
  const window = config.flag('use_sliding_window', false) ? config.count('sliding_window') : 0;
  const rope = readRope(config, sizes.headDim, false);
  const isSparse = isSparseLayer(config);

  const g = new GraphBuilder('qwen3_moe', sizes);
  const embedding = embedTokens(g, tensors, sizes);
  for (let layer = 0; layer < sizes.layers; layer++) {
    const at = `model.layers.${layer}`;
    rmsNorm(g, tensors, `${at}.input_layernorm`, sizes);
    groupedQueryAttention(g, tensors, {
      layer,
      at: `${at}.self_attn`,
      sizes,
      biases: { qkv: biased, out: biased },
      qkNorm: { over: 'head' },
      rope,
      window,
    });

    const inputNorm = rmsNorm(g, tensors, `${at}.post_attention_layernorm`, sizes);
    if (!isSparse(layer)) {
      denseMlp(g, layer, projections(tensors, `${at}.mlp`, hidden, config.count('intermediate_size')));
      continue;
    }
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
