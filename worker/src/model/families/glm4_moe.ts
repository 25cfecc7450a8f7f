import type { Checkpoint } from '../../checkpoint/checkpoint.ts';
import { groupedQueryAttention } from '../attention.ts';
import { embedTokens, rmsNorm, vocabularyHead } from '../decoder.ts';
import { readDecoderConfig } from '../decoder-config.ts';
import { deepSeekBlock, readDeepSeekBlocks, readSigmoidGate } from '../deepseek.ts';
import type { ModelGraph } from '../graph.ts';
import { GraphBuilder } from '../graph-builder.ts';
import { readRope, rotatedDims } from '../rope.ts';

/** GLM-4.5 (arXiv:2508.06471): a part of each head is rotated; q, k and v have biases; DeepSeek-V3's gate and blocks. */
export function glm4Moe({ config: stored, tensors }: Checkpoint): ModelGraph {
  const config = stored.defaulting({
    first_k_dense_replace: 1,
    n_shared_experts: 1,
    num_key_value_heads: 8,
    rms_norm_eps: 1e-5,
    max_position_embeddings: 131_072,
  });
  const sizes = readDecoderConfig(config);
  const blocks = readDeepSeekBlocks(config, sizes.hidden, readSigmoidGate(config));
  const biased = config.flag('attention_bias', false);
  const qkNorm = config.flag('use_qk_norm', false) ? { qkNorm: { over: 'head' } as const } : {};
  const rope = readRope(config, rotatedDims(config, sizes.headDim, 0.5), false, { partial: true });

  const g = new GraphBuilder('glm4_moe', sizes);
  const embedding = embedTokens(g, tensors, sizes);
  for (let layer = 0; layer < sizes.layers; layer++) {
    const at = `model.layers.${layer}`;
    rmsNorm(g, tensors, `${at}.input_layernorm`, sizes);
    groupedQueryAttention(g, tensors, {
      layer,
      at: `${at}.self_attn`,
      sizes,
      biases: { qkv: biased, out: false },
      ...qkNorm,
      rope,
      window: 0,
    });
    const inputNorm = rmsNorm(g, tensors, `${at}.post_attention_layernorm`, sizes);
    deepSeekBlock(g, tensors, layer, inputNorm, blocks);
  }
  return vocabularyHead(g, tensors, sizes, embedding);
}
