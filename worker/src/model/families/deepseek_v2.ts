import type { Checkpoint } from '../../checkpoint/checkpoint.ts';
import { deepSeekDecoder, readGroups } from '../deepseek.ts';
import type { ModelGraph } from '../graph.ts';

/** DeepSeek-V2 (arXiv:2405.04434): softmax gate, optionally limited to the groups with the best single expert. */
export function deepSeekV2(checkpoint: Checkpoint): ModelGraph {
  const { config } = checkpoint;
  config.choice('scoring_func', ['softmax'], 'softmax');
  const method = config.choice('topk_method', ['greedy', 'group_limited_greedy'], 'greedy');
  const limited = method === 'group_limited_greedy';
  // As published: weights are either renormalised or scaled.
  const renorm = config.flag('norm_topk_prob', false) && config.count('num_experts_per_tok') > 1;
  return deepSeekDecoder(checkpoint, 'deepseek_v2', {
    rule: {
      score: 'softmax',
      renorm,
      renormEps: 1e-20,
      scale: renorm ? 1 : config.positive('routed_scaling_factor', 1),
      ...(limited ? { groups: { ...readGroups(config), score: 'max', maskZero: true } } : {}),
    },
    biased: false,
    interleavedRope: true,
  });
}
