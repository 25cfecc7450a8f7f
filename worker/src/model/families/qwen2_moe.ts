import type { Checkpoint } from '../../checkpoint/checkpoint.ts';
import type { ConfigReader } from '../../checkpoint/config-reader.ts';
import { groupedQueryAttention } from '../attention.ts';
import { embedTokens, rmsNorm, vocabularyHead } from '../decoder.ts';
import { readDecoderConfig, readExpertCounts } from '../decoder-config.ts';
import { expertViews, siluBank } from '../expert-tensors.ts';
import type { ModelGraph } from '../graph.ts';
import { columns, GraphBuilder } from '../graph-builder.ts';
import { denseMlp, projections, sharedMlp } from '../mlp.ts';
import { readRope } from '../rope.ts';
import { isSparseLayer } from '../sparse-layers.ts';

/** Qwen1.5-MoE and Qwen2-MoE (arXiv:2407.10671): q, k and v have biases; every token also uses a shared expert, behind a sigmoid gate of its own. */
export function qwen2Moe({ config: stored, tensors }: Checkpoint): ModelGraph {
  const config = stored.defaulting({
    sliding_window: 4096,
    max_window_layers: 28,
    num_key_value_heads: 16,
    rms_norm_eps: 1e-6,
    max_position_embeddings: 32_768,
  });
  const sizes = readDecoderConfig(config);
  const { hidden } = sizes;
  const { experts, topK } = readExpertCounts(config, ['num_experts', 'num_local_experts']);
  const inter = config.count('moe_intermediate_size');
  const sharedInter = config.count('shared_expert_intermediate_size');
  const renorm = config.flag('norm_topk_prob', false);
  const biased = config.flag('qkv_bias', true);
  const window = slidingWindows(config, sizes.layers);
  const rope = readRope(config, sizes.headDim, false);
  const isSparse = isSparseLayer(config);

  const g = new GraphBuilder('qwen2_moe', sizes);
  const embedding = embedTokens(g, tensors, sizes);
  for (let layer = 0; layer < sizes.layers; layer++) {
    const at = `model.layers.${layer}`;
    rmsNorm(g, tensors, `${at}.input_layernorm`, sizes);
    groupedQueryAttention(g, tensors, {
      layer,
      at: `${at}.self_attn`,
      sizes,
      biases: { qkv: biased, out: false },
      rope,
      window: window(layer),
    });

    const inputNorm = rmsNorm(g, tensors, `${at}.post_attention_layernorm`, sizes);
    if (!isSparse(layer)) {
      denseMlp(g, layer, projections(tensors, `${at}.mlp`, hidden, config.count('intermediate_size')));
      continue;
    }
    const shared = sharedMlp(g, layer, projections(tensors, `${at}.mlp.shared_expert`, hidden, sharedInter));
    const sharedGate = g.slot('sharedGate', 1);
    g.linear({
      name: `layers.${layer}.sharedGate`,
      part: 'router',
      role: 'router',
      x: columns(g.normed),
      out: columns(sharedGate),
      weights: [tensors.matrix(`${at}.mlp.shared_expert_gate.weight`, 1, hidden)],
    });
    g.mulSigmoid(shared, hidden, sharedGate);

    const names = { gate: 'gate_proj', up: 'up_proj', down: 'down_proj' };
    g.mixtureOfExperts({
      layer,
      inputNorm,
      router: tensors.matrix(`${at}.mlp.gate.weight`, experts, hidden),
      topK,
      rule: { score: 'softmax', renorm },
      bank: siluBank(layer, hidden, inter, expertViews(tensors, `${at}.mlp.experts`, names, { experts, hidden, inter })),
      shared,
    });
  }
  return vocabularyHead(g, tensors, sizes, embedding);
}

/** Window of each layer: only where `use_sliding_window`, and then on the even layers below `max_window_layers` unless `layer_types` says otherwise. */
function slidingWindows(config: ConfigReader, layers: number): (layer: number) => number {
  if (!config.flag('use_sliding_window', false)) return () => 0;
  const window = config.count('sliding_window');
  const below = config.index('max_window_layers', layers);
  const types = config.names('layer_types', ['sliding_attention', 'full_attention'], layers);
  return (layer) => ((types === null ? layer % 2 === 0 && layer < below : types[layer] === 'sliding_attention') ? window : 0);
}
