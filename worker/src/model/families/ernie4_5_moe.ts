import type { Checkpoint } from '../../checkpoint/checkpoint.ts';
import type { ConfigReader } from '../../checkpoint/config-reader.ts';
import { groupedQueryAttention } from '../attention.ts';
import { embedTokens, rmsNorm, vocabularyHead } from '../decoder.ts';
import { readDecoderConfig, readExpertCounts } from '../decoder-config.ts';
import { expertViews, siluBank } from '../expert-tensors.ts';
import type { ModelGraph } from '../graph.ts';
import { GraphBuilder } from '../graph-builder.ts';
import { denseMlp, projections, sharedMlp } from '../mlp.ts';
import { readRope } from '../rope.ts';

/** ERNIE 4.5 (text): interleaved rotary pairs; softmax gate with a bias for choosing, renormalised; an ungated shared expert. */
export function ernie45Moe({ config: stored, tensors }: Checkpoint): ModelGraph {
  const config = stored.defaulting({
    rope_theta: 5e5,
    tie_word_embeddings: true,
    moe_num_shared_experts: 2,
    moe_layer_start_index: 1,
    num_key_value_heads: 4,
    rms_norm_eps: 1e-5,
    max_position_embeddings: 131_072,
  });
  const sizes = readDecoderConfig(config);
  const { hidden } = sizes;
  const { experts, topK } = readExpertCounts(config, ['moe_num_experts', 'num_experts'], ['moe_k', 'num_experts_per_tok']);
  const inter = config.count('moe_intermediate_size');
  const sharedExperts = config.index('moe_num_shared_experts', 0);
  if (config.flag('use_bias', false)) throw config.refusal('use_bias', 'false: feed-forward blocks with biases are not implemented');
  // A floor of the sum of chosen probabilities, which is far above any that is published: 1e-12.
  if (config.positive('moe_norm_min', 1e-12) > 1e-6)
    throw config.refusal('moe_norm_min', 'a floor below every sum of probabilities (1e-6 at most)');
  const isSparse = sparseLayers(config, sizes.layers);
  const rope = readRope(config, sizes.headDim, true);

  const g = new GraphBuilder('ernie4_5_moe', sizes);
  const embedding = embedTokens(g, tensors, sizes);
  for (let layer = 0; layer < sizes.layers; layer++) {
    const at = `model.layers.${layer}`;
    rmsNorm(g, tensors, `${at}.input_layernorm`, sizes);
    groupedQueryAttention(g, tensors, { layer, at: `${at}.self_attn`, sizes, biases: { qkv: false, out: false }, rope, window: 0 });

    const inputNorm = rmsNorm(g, tensors, `${at}.post_attention_layernorm`, sizes);
    const moe = `${at}.mlp`;
    if (!isSparse(layer)) {
      denseMlp(g, layer, projections(tensors, moe, hidden, config.count('intermediate_size')));
      continue;
    }
    const names = { gate: 'gate_proj', up: 'up_proj', down: 'down_proj' };
    g.mixtureOfExperts({
      layer,
      inputNorm,
      router: tensors.matrix(`${moe}.gate.weight`, experts, hidden),
      selectBias: tensors.row(`${moe}.moe_statics.e_score_correction_bias`, experts),
      topK,
      rule: { score: 'softmax', renorm: true },
      bank: siluBank(layer, hidden, inter, expertViews(tensors, `${moe}.experts`, names, { experts, hidden, inter })),
      shared:
        sharedExperts === 0 ? null : sharedMlp(g, layer, projections(tensors, `${moe}.shared_experts`, hidden, inter * sharedExperts)),
    });
  }
  return vocabularyHead(g, tensors, sizes, embedding);
}

/** Every `moe_layer_interval`-th layer from `moe_layer_start_index` to `moe_layer_end_index`, where -1 is the last. */
function sparseLayers(config: ConfigReader, layers: number): (layer: number) => boolean {
  const interval = config.count('moe_layer_interval', 1);
  const start = config.index('moe_layer_start_index', 0);
  const end = config.real('moe_layer_end_index', -1);
  const last = end === -1 ? layers - 1 : end;
  return (layer) => layer >= start && layer <= last && (layer + 1) % interval === 0;
}
