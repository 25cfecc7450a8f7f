import type { Checkpoint } from '../../checkpoint/checkpoint.ts';
import type { ConfigReader } from '../../checkpoint/config-reader.ts';
import { groupedQueryAttention } from '../attention.ts';
import { embedTokens, rmsNorm, vocabularyHead } from '../decoder.ts';
import { readDecoderConfig } from '../decoder-config.ts';
import { deepSeekBlock, readDeepSeekBlocks, readSigmoidGate } from '../deepseek.ts';
import type { ModelGraph } from '../graph.ts';
import { GraphBuilder } from '../graph-builder.ts';
import { readRope } from '../rope.ts';

/** dots.llm1 (arXiv:2506.05767): Qwen3's attention, DeepSeek-V3's gate and blocks. */
export function dots1({ config: stored, tensors }: Checkpoint): ModelGraph {
  const config = stored.defaulting({
    norm_topk_prob: false,
    sliding_window: 4096,
    max_window_layers: 62,
    num_key_value_heads: 32,
    rms_norm_eps: 1e-6,
    max_position_embeddings: 2048,
  });
  const sizes = readDecoderConfig(config);
  // As published, `scoring_func` is the name that DeepSeek gave to the method of choosing.
  const gate = readSigmoidGate(config, ['sigmoid', 'noaux_tc']);
  const blocks = readDeepSeekBlocks(config, sizes.hidden, gate);
  const biased = config.flag('attention_bias', false);
  const slides = slidingLayers(config, sizes.layers);
  const rope = readRope(config, sizes.headDim, false);

  const g = new GraphBuilder('dots1', sizes);
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
      window: slides(layer) ? config.count('sliding_window') : 0,
    });
    const inputNorm = rmsNorm(g, tensors, `${at}.post_attention_layernorm`, sizes);
    deepSeekBlock(g, tensors, layer, inputNorm, blocks);
  }
  return vocabularyHead(g, tensors, sizes, embedding);
}

/** Those that `layer_types` says, else, where there is a window, the layers from `max_window_layers` on. */
function slidingLayers(config: ConfigReader, layers: number): (layer: number) => boolean {
  const types = config.names('layer_types', ['sliding_attention', 'full_attention'], layers);
  if (types !== null) return (layer) => types[layer] === 'sliding_attention';
  const from = config.has('sliding_window') ? config.index('max_window_layers', 0) : layers;
  return (layer) => layer >= from;
}
