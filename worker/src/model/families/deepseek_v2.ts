import type { Checkpoint } from '../../checkpoint/checkpoint.ts';
import type { ConfigReader } from '../../checkpoint/config-reader.ts';
import { embedTokens, rmsNorm, vocabularyHead } from '../decoder.ts';
import { readDecoderConfig } from '../decoder-config.ts';
import { deepSeekBlock, readDeepSeekBlocks, readGroups } from '../deepseek.ts';
import type { ModelGraph } from '../graph.ts';
import { GraphBuilder, type RoutingRule } from '../graph-builder.ts';
import { latentAttention, readLatentConfig } from '../latent-attention.ts';
import { readRope } from '../rope.ts';

/** DeepSeek-V2 (arXiv:2405.04434): latent attention; softmax gate, optionally limited to the groups with the best single expert. */
export function deepSeekV2({ config: stored, tensors }: Checkpoint): ModelGraph {
  const config = stored.defaulting({ n_shared_experts: 2, q_lora_rank: 1536, rms_norm_eps: 1e-6, max_position_embeddings: 2048 });
  // Latent attention has its own head sizes: `head_dim`, where present at all, is not what its name says.
  const sizes = readDecoderConfig(config, { headDim: config.count('v_head_dim') });
  const blocks = readDeepSeekBlocks(config, sizes.hidden, { rule: readSoftmaxGate(config), biased: false });
  if (config.flag('mlp_bias', false)) throw config.refusal('mlp_bias', 'false: feed-forward blocks with biases are not implemented');
  const latent = readLatentConfig(config);
  const rope = readRope(config, latent.rope, true);

  const g = new GraphBuilder('deepseek_v2', sizes);
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

function readSoftmaxGate(config: ConfigReader): RoutingRule {
  config.choice('scoring_func', ['softmax'], 'softmax');
  const limited = config.choice('topk_method', ['greedy', 'group_limited_greedy'], 'greedy') === 'group_limited_greedy';
  // As published: weights are either renormalised or scaled.
  const renorm = config.flag('norm_topk_prob', false) && config.count('num_experts_per_tok') > 1;
  return {
    score: 'softmax',
    renorm,
    renormEps: 1e-20,
    scale: renorm ? 1 : config.positive('routed_scaling_factor', 1),
    ...(limited ? { groups: { ...readGroups(config), score: 'max', maskZero: true } } : {}),
  };
}
