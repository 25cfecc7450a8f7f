import type { Checkpoint } from '../../checkpoint/checkpoint.ts';
import { deepSeekDecoder, readGroups } from '../deepseek.ts';
import type { ModelGraph } from '../graph.ts';

/**
 * DeepSeek-V3 and R1 (arXiv:2412.19437): sigmoid gate whose learned bias takes part in choosing and not in weighting; groups compete by the sum of their
 * two best. Experts outside the kept groups score -inf, not 0: a bias may make an allowed score negative.
 */
export function deepSeekV3(checkpoint: Checkpoint): ModelGraph {
  const { config } = checkpoint;
  config.choice('scoring_func', ['sigmoid'], 'sigmoid');
  config.choice('topk_method', ['noaux_tc'], 'noaux_tc');
  return deepSeekDecoder(checkpoint, 'deepseek_v3', {
    rule: {
      score: 'sigmoid',
      renorm: config.flag('norm_topk_prob', true),
      renormEps: 1e-20,
      scale: config.positive('routed_scaling_factor', 1),
      groups: { ...readGroups(config), score: 'top_two', maskZero: false },
    },
    biased: true,
    interleavedRope: config.flag('rope_interleave', true),
  });
}
