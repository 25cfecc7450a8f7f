import type { Checkpoint } from '../../checkpoint/checkpoint.ts';
import { groupedQueryAttention } from '../attention.ts';
import { embedTokens, rmsNorm, vocabularyHead } from '../decoder.ts';
import { readDecoderConfig, readExpertCounts } from '../decoder-config.ts';
import { fusedExpertViews, siluBank } from '../expert-tensors.ts';
import type { ModelGraph } from '../graph.ts';
import { GraphBuilder } from '../graph-builder.ts';
import { halves, sharedMlp } from '../mlp.ts';
import { readRope } from '../rope.ts';

/**
 * Granite 3 MoE: multipliers on embedding, attention, residual branches and logits; experts stored fused; softmax over the chosen scores only.
 * `granitemoeshared` adds one shared expert, neither gated nor scaled.
 */
export function graniteMoe({ config: stored, tensors }: Checkpoint): ModelGraph {
  const config = stored.defaulting({ rms_norm_eps: 1e-6, max_position_embeddings: 2048 });
  const sizes = readDecoderConfig(config);
  const { hidden } = sizes;
  const { experts, topK } = readExpertCounts(config, ['num_local_experts', 'num_experts']);
  const inter = config.count('intermediate_size');
  const biased = config.flag('attention_bias', false);
  const attentionScale = config.positive('attention_multiplier', 1);
  const multiplier = config.real('residual_multiplier', 1);
  const logitScale = 1 / config.positive('logits_scaling', 1);
  const rope = readRope(config, sizes.headDim, false);
  const modelType = config.choice('model_type', ['granitemoe', 'granitemoeshared']);
  const sharedInter = modelType === 'granitemoeshared' ? config.index('shared_intermediate_size', 0) : 0;

  const g = new GraphBuilder(modelType, sizes);
  const embedding = embedTokens(g, tensors, sizes, config.real('embedding_multiplier', 1));
  for (let layer = 0; layer < sizes.layers; layer++) {
    const at = `model.layers.${layer}`;
    rmsNorm(g, tensors, `${at}.input_layernorm`, sizes);
    groupedQueryAttention(g, tensors, {
      layer,
      at: `${at}.self_attn`,
      sizes,
      biases: { qkv: biased, out: biased },
      scale: attentionScale,
      multiplier,
      rope,
      window: 0,
    });

    const inputNorm = rmsNorm(g, tensors, `${at}.post_attention_layernorm`, sizes);
    const shared =
      sharedInter === 0
        ? null
        : sharedMlp(g, layer, {
            ...halves(tensors.matrix(`${at}.shared_mlp.input_linear.weight`, 2 * sharedInter, hidden)),
            down: tensors.matrix(`${at}.shared_mlp.output_linear.weight`, hidden, sharedInter),
          });
    const moe = `${at}.block_sparse_moe`;
    g.mixtureOfExperts({
      layer,
      inputNorm,
      router: tensors.matrix(`${moe}.router.layer.weight`, experts, hidden),
      topK,
      rule: { score: 'softmax_chosen', renorm: false },
      bank: siluBank(
        layer,
        hidden,
        inter,
        fusedExpertViews(tensors, `${moe}.input_linear.weight`, `${moe}.output_linear.weight`, { experts, hidden, inter }),
      ),
      shared,
      multiplier,
    });
  }
  return vocabularyHead(g, tensors, sizes, embedding, logitScale);
}
