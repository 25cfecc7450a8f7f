import type { ConfigReader } from '../checkpoint/config-reader.ts';
import type { Tensors } from '../checkpoint/tensors.ts';
import { readExpertCounts } from './decoder-config.ts';
import { expertViews, siluBank } from './expert-tensors.ts';
import type { Constant } from './graph.ts';
import type { GraphBuilder, RoutingRule } from './graph-builder.ts';
import { denseMlp, projections, sharedMlp } from './mlp.ts';

/** DeepSeek's feed-forward blocks: a dense beginning, then routed experts beside shared ones that are neither gated nor scaled. */
export interface DeepSeekBlocks {
  hidden: number;
  experts: number;
  topK: number;
  /** Width of one expert, routed or shared. */
  inter: number;
  sharedExperts: number;
  isSparse(layer: number): boolean;
  denseInter(): number;
  rule: RoutingRule;
  /** `mlp.gate.e_score_correction_bias`, for choosing only. */
  biased: boolean;
}

const expertKeys = ['n_routed_experts', 'num_local_experts', 'num_experts'];

export function readDeepSeekBlocks(config: ConfigReader, hidden: number, gate: { rule: RoutingRule; biased: boolean }): DeepSeekBlocks {
  const dense = config.index('first_k_dense_replace', 0);
  const every = config.count('moe_layer_freq', 1);
  return {
    hidden,
    ...readExpertCounts(config, expertKeys),
    inter: config.count('moe_intermediate_size'),
    sharedExperts: config.index('n_shared_experts', 0),
    isSparse: (layer) => layer >= dense && layer % every === 0,
    denseInter: () => config.count('intermediate_size'),
    ...gate,
  };
}

/** The feed-forward block of a layer, from `normed` into the residual stream. */
export function deepSeekBlock(g: GraphBuilder, tensors: Tensors, layer: number, inputNorm: Constant, blocks: DeepSeekBlocks): void {
  const { hidden, experts, topK, inter, sharedExperts, rule, biased } = blocks;
  const at = `model.layers.${layer}.mlp`;
  if (!blocks.isSparse(layer)) {
    denseMlp(g, layer, projections(tensors, at, hidden, blocks.denseInter()));
    return;
  }
  const names = { gate: 'gate_proj', up: 'up_proj', down: 'down_proj' };
  g.mixtureOfExperts({
    layer,
    inputNorm,
    router: tensors.matrix(`${at}.gate.weight`, experts, hidden),
    ...(biased ? { selectBias: tensors.vector(`${at}.gate.e_score_correction_bias`, experts) } : {}),
    topK,
    rule,
    bank: siluBank(layer, hidden, inter, expertViews(tensors, `${at}.experts`, names, { experts, hidden, inter })),
    shared: sharedExperts === 0 ? null : sharedMlp(g, layer, projections(tensors, `${at}.shared_experts`, hidden, inter * sharedExperts)),
  });
}

/**
 * The gate of DeepSeek-V3 and those that took it over: sigmoid scores, whose learned bias takes part in choosing and not in weighting; groups compete by
 * the sum of their two best. Experts outside the kept groups score -inf, not 0: a bias may make an allowed score negative.
 * @param names what a family's published configs say in `scoring_func` for it
 */
export function readSigmoidGate(config: ConfigReader, names: readonly string[] = ['sigmoid']): { rule: RoutingRule; biased: boolean } {
  config.choice('scoring_func', names, 'sigmoid');
  config.choice('topk_method', ['noaux_tc'], 'noaux_tc');
  const rule: RoutingRule = {
    score: 'sigmoid',
    renorm: config.flag('norm_topk_prob', true),
    renormEps: 1e-20,
    scale: config.positive('routed_scaling_factor', 1),
    groups: { ...readGroups(config, 2), score: 'top_two', maskZero: false },
  };
  return { rule, biased: true };
}

/** What the router's kernel takes. */
const groupsMax = 256;

/** Expert groups, of which the best few stay in the running. `least`: experts of a group that its score needs. */
export function readGroups(config: ConfigReader, least = 1): { count: number; kept: number } {
  const count = config.count('n_group', 1, groupsMax);
  const { experts, topK } = readExpertCounts(config, expertKeys);
  if (experts % count !== 0) throw config.refusal('n_group', `a divisor of the ${experts} experts`);
  if (count > 1 && experts / count < least)
    throw config.refusal('n_group', `small enough that a group of the ${experts} experts has ${least}`);
  const kept = config.count('topk_group', 1, count);
  if ((experts / count) * kept < topK) throw config.refusal('topk_group', `enough groups of ${experts / count} for ${topK} experts`);
  return { count, kept };
}
