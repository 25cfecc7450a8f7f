import type { Checkpoint } from '../../checkpoint/checkpoint.ts';
import type { ConfigReader } from '../../checkpoint/config-reader.ts';
import { groupedQueryAttention } from '../attention.ts';
import { embedTokens, rmsNorm, vocabularyHead } from '../decoder.ts';
import { readDecoderConfig, readExpertCounts } from '../decoder-config.ts';
import { expertViews, siluBank } from '../expert-tensors.ts';
import type { ModelGraph } from '../graph.ts';
import { GraphBuilder, type RoutingRule } from '../graph-builder.ts';
import { denseMlp, projections } from '../mlp.ts';
import { readRope } from '../rope.ts';
import { isSparseLayer } from '../sparse-layers.ts';

/**
 * Qwen3's decoder with the two-level gate of SMILE (He et al. 2022, arXiv:2212.05191), for models trained with it. With N nodes of m experts each,
 * p = softmax(`mlp.inter.weight` x) over nodes and q = softmax(`mlp.intra.weight` x) over the places inside one; expert i*m + j answers with weight
 * p_i * q_j. The best `num_nodes_per_tok` nodes are visited, and in each the best num_experts_per_tok / num_nodes_per_tok places: 1 and 1 in the paper.
 *
 * "Nodes" are those of training: they are ids. Placement may put each whole on a machine (`place --groups whole`), and need not.
 */
export function switchyardSmileMoe({ config, tensors }: Checkpoint): ModelGraph {
  const sizes = readDecoderConfig(config);
  const { hidden } = sizes;
  const { experts, topK } = readExpertCounts(config, ['num_experts', 'num_local_experts']);
  const inter = config.count('moe_intermediate_size');
  const nodes = readNodes(config, experts, topK);
  const rule: RoutingRule = {
    score: 'factored',
    renorm: config.flag('norm_topk_prob', false),
    scale: config.positive('routed_scaling_factor', 1),
    groups: { ...nodes, score: 'max', maskZero: false },
  };
  const biased = config.flag('attention_bias', false);
  const window = config.flag('use_sliding_window', false) ? config.count('sliding_window') : 0;
  const rope = readRope(config, sizes.headDim, false);
  const isSparse = isSparseLayer(config);

  const g = new GraphBuilder('switchyard_smile_moe', sizes);
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
      window,
    });

    const inputNorm = rmsNorm(g, tensors, `${at}.post_attention_layernorm`, sizes);
    if (!isSparse(layer)) {
      denseMlp(g, layer, projections(tensors, `${at}.mlp`, hidden, config.count('intermediate_size')));
      continue;
    }
    const names = { gate: 'gate_proj', up: 'up_proj', down: 'down_proj' };
    g.mixtureOfExperts({
      layer,
      inputNorm,
      router: [
        tensors.matrix(`${at}.mlp.inter.weight`, nodes.count, hidden),
        tensors.matrix(`${at}.mlp.intra.weight`, experts / nodes.count, hidden),
      ],
      topK,
      rule,
      bank: siluBank(layer, hidden, inter, expertViews(tensors, `${at}.mlp.experts`, names, { experts, hidden, inter })),
      shared: null,
    });
  }
  return vocabularyHead(g, tensors, sizes, embedding);
}

function readNodes(config: ConfigReader, experts: number, topK: number): { count: number; kept: number } {
  const count = config.count('num_nodes');
  if (count < 2 || experts % count !== 0) throw config.refusal('num_nodes', `a divisor of the ${experts} experts, 2 at least`);
  const kept = config.count('num_nodes_per_tok', 1, count);
  if (topK % kept !== 0) throw config.refusal('num_experts_per_tok', `a multiple of the ${kept} nodes that a token visits`);
  if (topK / kept > experts / count)
    throw config.refusal('num_experts_per_tok', `at most ${experts / count} experts on each of the ${kept} nodes that a token visits`);
  return { count, kept };
}
