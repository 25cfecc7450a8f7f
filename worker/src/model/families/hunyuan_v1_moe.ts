import type { Checkpoint } from '../../checkpoint/checkpoint.ts';
import { groupedQueryAttention } from '../attention.ts';
import { embedTokens, rmsNorm, vocabularyHead } from '../decoder.ts';
import { readDecoderConfig, readExpertCounts } from '../decoder-config.ts';
import { expertViews, siluBank } from '../expert-tensors.ts';
import type { ModelGraph } from '../graph.ts';
import { GraphBuilder } from '../graph-builder.ts';
import { projections, sharedMlp } from '../mlp.ts';
import { readRope } from '../rope.ts';

/** Hunyuan-A13B: q and k are rotated first and normed per head after; softmax gate, renormalised, beside an ungated shared expert. */
export function hunyuanV1Moe({ config: stored, tensors }: Checkpoint): ModelGraph {
  const config = stored.defaulting({ rms_norm_eps: 1e-5, max_position_embeddings: 2048 });
  const sizes = readDecoderConfig(config);
  const { hidden, layers } = sizes;
  const { experts, topK } = readExpertCounts(config.uniform(['num_experts', 'moe_topk'], layers), ['num_experts'], ['moe_topk']);
  const inter = config.has('moe_intermediate_size')
    ? config.uniform(['moe_intermediate_size'], layers).count('moe_intermediate_size')
    : config.count('intermediate_size');
  const biased = config.flag('attention_bias', false);
  const rope = readRope(config, sizes.headDim, false, { alpha: true });

  const g = new GraphBuilder('hunyuan_v1_moe', sizes);
  const embedding = embedTokens(g, tensors, sizes);
  for (let layer = 0; layer < layers; layer++) {
    const at = `model.layers.${layer}`;
    rmsNorm(g, tensors, `${at}.input_layernorm`, sizes);
    groupedQueryAttention(g, tensors, {
      layer,
      at: `${at}.self_attn`,
      sizes,
      biases: { qkv: biased, out: biased },
      qkNorm: { over: 'head', names: { q: 'query_layernorm', k: 'key_layernorm' }, afterRope: true },
      rope,
      window: 0,
    });

    const inputNorm = rmsNorm(g, tensors, `${at}.post_attention_layernorm`, sizes);
    const names = { gate: 'gate_proj', up: 'up_proj', down: 'down_proj' };
    g.mixtureOfExperts({
      layer,
      inputNorm,
      router: tensors.matrix(`${at}.mlp.gate.wg.weight`, experts, hidden),
      topK,
      rule: { score: 'softmax', renorm: true },
      bank: siluBank(layer, hidden, inter, expertViews(tensors, `${at}.mlp.experts`, names, { experts, hidden, inter })),
      shared: sharedMlp(g, layer, projections(tensors, `${at}.mlp.shared_mlp`, hidden, config.count('intermediate_size'))),
    });
  }
  return vocabularyHead(g, tensors, sizes, embedding);
}
