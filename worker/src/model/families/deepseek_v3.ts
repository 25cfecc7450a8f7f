import type { Checkpoint } from '../../checkpoint/checkpoint.ts';
import { embedTokens, rmsNorm, vocabularyHead } from '../decoder.ts';
import { readDecoderConfig } from '../decoder-config.ts';
import { deepSeekBlock, readDeepSeekBlocks, readSigmoidGate } from '../deepseek.ts';
import type { ModelGraph } from '../graph.ts';
import { GraphBuilder } from '../graph-builder.ts';
import { latentAttention, readLatentConfig } from '../latent-attention.ts';
import { readRope } from '../rope.ts';

/** DeepSeek-V3 and R1 (arXiv:2412.19437): latent attention and the sigmoid gate. */
export function deepSeekV3({ config: stored, tensors }: Checkpoint): ModelGraph {
  const config = stored.defaulting({
    routed_scaling_factor: 2.5,
    n_group: 8,
    topk_group: 4,
    first_k_dense_replace: 3,
    n_shared_experts: 1,
    q_lora_rank: 1536,
    rms_norm_eps: 1e-6,
    max_position_embeddings: 4096,
  });
  // Latent attention has its own head sizes: `head_dim`, where present at all, is not what its name says.
  const sizes = readDecoderConfig(config, { headDim: config.count('v_head_dim') });
  const blocks = readDeepSeekBlocks(config, sizes.hidden, readSigmoidGate(config));
  const latent = readLatentConfig(config);
  const rope = readRope(config, latent.rope, config.flag('rope_interleave', true));

  const g = new GraphBuilder('deepseek_v3', sizes);
  const embedding = embedTokens(g, tensors, sizes);
  for (let layer = 0; layer < sizes.layers; layer++) {
    const at = `model.layers.${layer}`;
    rmsNorm(g, tensors, `${at}.input_layernorm`, sizes);
    latentAttention(g, tensors, { layer, at: `${at}.self_attn`, sizes, latent, rope });
    const inputNorm = rmsNorm(g, tensors, `${at}.post_attention_layernorm`, sizes);
    deepSeekBlock(g, tensors, layer, inputNorm, blocks);
  }
  return vocabularyHead(g, tensors, sizes, embedding);
}
