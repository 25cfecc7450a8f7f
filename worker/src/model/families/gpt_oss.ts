import type { Checkpoint } from '../../checkpoint/checkpoint.ts';
import { rowsOf, transposed } from '../../checkpoint/tensor-view.ts';
import type { Tensors } from '../../checkpoint/tensors.ts';
import { groupedQueryAttention } from '../attention.ts';
import { embedTokens, rmsNorm, vocabularyHead } from '../decoder.ts';
import { readDecoderConfig, readExpertCounts } from '../decoder-config.ts';
import type { ExpertViews, ModelGraph } from '../graph.ts';
import { GraphBuilder } from '../graph-builder.ts';
import { readRope } from '../rope.ts';

/** What its code takes for absent rope settings. */
const ropeOfClass = {
  rope_type: 'yarn',
  rope_theta: 150_000,
  factor: 32,
  beta_fast: 32,
  beta_slow: 1,
  truncate: false,
  original_max_position_embeddings: 4096,
};

/** GPT-OSS (arXiv:2508.10925): attention sinks, alternating windows, biases everywhere, a clamped gate, experts in MXFP4. */
export function gptOss({ config: stored, tensors }: Checkpoint): ModelGraph {
  const config = stored.defaulting({
    rope_theta: 150_000,
    sliding_window: 128,
    head_dim: 64,
    num_key_value_heads: 8,
    rms_norm_eps: 1e-5,
    max_position_embeddings: 131_072,
  });
  const sizes = readDecoderConfig(config);
  const { hidden, layers } = sizes;
  const { experts, topK } = readExpertCounts(config, ['num_local_experts', 'num_experts']);
  const inter = config.count('intermediate_size');
  const biased = config.flag('attention_bias', true);
  const limit = config.positive('swiglu_limit', 7);
  const alpha = config.positive('swiglu_alpha', 1.702);
  const window = config.index('sliding_window', 0);
  const types = config.names('layer_types', ['sliding_attention', 'full_attention'], layers);
  const slides = (layer: number) => (types === null ? layer % 2 === 0 : types[layer] === 'sliding_attention');
  const hasRope = config.has('rope_parameters') || config.has('rope_scaling');
  const rope = readRope(hasRope ? config : config.setting({ rope_parameters: ropeOfClass }), sizes.headDim, false);

  const g = new GraphBuilder('gpt_oss', sizes);
  const embedding = embedTokens(g, tensors, sizes);
  for (let layer = 0; layer < layers; layer++) {
    const at = `model.layers.${layer}`;
    rmsNorm(g, tensors, `${at}.input_layernorm`, sizes);
    groupedQueryAttention(g, tensors, {
      layer,
      at: `${at}.self_attn`,
      sizes,
      biases: { qkv: biased, out: biased },
      rope,
      window: slides(layer) ? window : 0,
      sinks: `${at}.self_attn.sinks`,
    });

    const inputNorm = rmsNorm(g, tensors, `${at}.post_attention_layernorm`, sizes);
    const views = expertsOf(tensors, `${at}.mlp.experts`, { experts, hidden, inter });
    g.mixtureOfExperts({
      layer,
      inputNorm,
      router: tensors.matrix(`${at}.mlp.router.weight`, experts, hidden),
      routerBias: tensors.vector(`${at}.mlp.router.bias`, experts),
      topK,
      rule: { score: 'softmax_chosen', renorm: false },
      bank: { layer, hidden, inter, activation: 'gpt_oss', alpha, limit, views },
      shared: null,
    });
  }
  return vocabularyHead(g, tensors, sizes, embedding);
}

/** Gate and up rows alternate, gate first. MXFP4 is stored [E, 2I, H]; dequantised checkpoints are stored the other way round, [E, H, 2I]. */
function expertsOf(
  tensors: Tensors,
  at: string,
  { experts, hidden, inter }: { experts: number; hidden: number; inter: number },
): ExpertViews[] {
  const packed = tensors.has(`${at}.gate_up_proj_blocks`);
  const gateUp = packed
    ? tensors.mxfp4Stack(`${at}.gate_up_proj`, experts, 2 * inter, hidden)
    : tensors.stack(`${at}.gate_up_proj`, experts, hidden, 2 * inter).map(transposed);
  const down = packed
    ? tensors.mxfp4Stack(`${at}.down_proj`, experts, hidden, inter)
    : tensors.stack(`${at}.down_proj`, experts, inter, hidden).map(transposed);
  const gateUpBias = tensors.vectors(`${at}.gate_up_proj_bias`, experts, 2 * inter);
  const downBias = tensors.vectors(`${at}.down_proj_bias`, experts, hidden);
  return gateUp.map((both, e) => ({
    gate: rowsOf(both, 0, inter, 2),
    up: rowsOf(both, 1, inter, 2),
    down: down[e]!,
    gateBias: everyOther(gateUpBias[e]!, 0),
    upBias: everyOther(gateUpBias[e]!, 1),
    downBias: downBias[e]!,
  }));
}

/** Elements first, first + 2, … of a row. */
function everyOther(row: ExpertViews['down'], first: number): ExpertViews['down'] {
  return transposed(rowsOf(transposed(row), first, row.k / 2, 2));
}
