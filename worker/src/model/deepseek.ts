import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import type { ConfigReader } from '../checkpoint/config-reader.ts';
import { embedTokens, rmsNorm, vocabularyHead } from './decoder.ts';
import { type DecoderConfig, readDecoderConfig, readExpertCounts } from './decoder-config.ts';
import { expertViews, siluBank } from './expert-tensors.ts';
import type { ModelGraph } from './graph.ts';
import { GraphBuilder, type RoutingRule } from './graph-builder.ts';
import { latentAttention, readLatentConfig } from './latent-attention.ts';
import { denseMlp, projections, sharedMlp } from './mlp.ts';
import { readRope } from './rope.ts';

/** What tells one generation of DeepSeek's decoder from the next: its gate, and whether rotary pairs are interleaved. */
export interface DeepSeekGate {
  rule: RoutingRule;
  /** `mlp.gate.e_score_correction_bias`, for choosing only. */
  biased: boolean;
  interleavedRope: boolean;
}

/** DeepSeek-V2 and V3: latent attention, a dense beginning, then routed experts beside shared ones that are neither gated nor scaled. */
export function deepSeekDecoder({ config, tensors }: Checkpoint, modelType: string, gate: DeepSeekGate): ModelGraph {
  const sizes = readDeepSeekSizes(config);
  const { hidden } = sizes;
  const { experts, topK } = readExpertCounts(config, 'n_routed_experts', 'num_local_experts', 'num_experts');
  const inter = config.count('moe_intermediate_size');
  const sharedExperts = config.index('n_shared_experts', 0);
  const denseLayers = config.index('first_k_dense_replace', 0);
  const every = config.count('moe_layer_freq', 1);
  const latent = readLatentConfig(config);
  const rope = readRope(config, latent.rope, gate.interleavedRope);

  const g = new GraphBuilder(modelType, sizes);
  const embedding = embedTokens(g, tensors, sizes);
  for (let layer = 0; layer < sizes.layers; layer++) {
    const at = `model.layers.${layer}`;
    rmsNorm(g, tensors, `${at}.input_layernorm`, sizes);
    latentAttention(g, tensors, { layer, at: `${at}.self_attn`, sizes, latent, rope });

    const inputNorm = rmsNorm(g, tensors, `${at}.post_attention_layernorm`, sizes);
    if (layer < denseLayers || layer % every !== 0) {
      denseMlp(g, layer, projections(tensors, `${at}.mlp`, hidden, config.count('intermediate_size')));
      continue;
    }
    const names = { gate: 'gate_proj', up: 'up_proj', down: 'down_proj' };
    g.mixtureOfExperts({
      layer,
      inputNorm,
      router: tensors.matrix(`${at}.mlp.gate.weight`, experts, hidden),
      ...(gate.biased ? { selectBias: tensors.vector(`${at}.mlp.gate.e_score_correction_bias`, experts) } : {}),
      topK,
      rule: gate.rule,
      bank: siluBank(layer, hidden, inter, expertViews(tensors, `${at}.mlp.experts`, names, { experts, hidden, inter })),
      shared:
        sharedExperts === 0 ? null : sharedMlp(g, layer, projections(tensors, `${at}.mlp.shared_experts`, hidden, inter * sharedExperts)),
    });
  }
  return vocabularyHead(g, tensors, sizes, embedding);
}

/** Latent attention has its own head sizes: `head_dim`, where present at all, is not what its name says. */
function readDeepSeekSizes(config: ConfigReader): DecoderConfig {
  return readDecoderConfig(config, { headDim: config.count('v_head_dim') });
}

/** Expert groups, of which the best few stay in the running. */
export function readGroups(config: ConfigReader): { count: number; kept: number } {
  const count = config.count('n_group', 1);
  const { experts, topK } = readExpertCounts(config, 'n_routed_experts', 'num_local_experts', 'num_experts');
  if (experts % count !== 0) throw config.refusal('n_group', `a divisor of the ${experts} experts`);
  const kept = config.count('topk_group', 1, count);
  if ((experts / count) * kept < topK) throw config.refusal('topk_group', `enough groups of ${experts / count} for ${topK} experts`);
  return { count, kept };
}
