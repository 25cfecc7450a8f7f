import { NO_EXPERT, type RoutingTrace } from '../trace/routing-trace.ts';

/** How often a token went from expert e of one layer to expert f of the next. */
export interface Transitions {
  layers: number;
  experts: number;
  /** (layers - 1) of (experts, experts) */
  counts: Float64Array[];
  /** Rows per expert, (layers, experts), of all choices: what the expert serves, whichever transitions are counted. */
  loads: Float64Array;
}

/** `top1`: from first choice to first choice (ExFlow). `pairs`: every pair of a token's choices in adjacent layers. */
export function transitionsOf(trace: RoutingTrace, kind: 'top1' | 'pairs'): Transitions {
  const layers = trace.moeLayers.length;
  const { experts, topK } = trace;
  const width = kind === 'top1' ? Math.min(1, topK) : topK;
  const counts = Array.from({ length: layers - 1 }, () => new Float64Array(experts * experts));
  const loads = new Float64Array(layers * experts);
  for (let t = 0; t < trace.tokens; t++)
    for (let l = 0; l < layers; l++) {
      const base = (t * layers + l) * topK;
      for (let i = 0; i < topK; i++) if (trace.ids[base + i] !== NO_EXPERT) loads[l * experts + trace.ids[base + i]]++;
      if (l === layers - 1) continue;
      for (let i = 0; i < width; i++) {
        const e = trace.ids[base + i];
        if (e === NO_EXPERT) continue;
        for (let j = 0; j < width; j++) {
          const f = trace.ids[base + topK + j];
          if (f !== NO_EXPERT) counts[l][e * experts + f]++;
        }
      }
    }
  return { layers, experts, counts, loads };
}

export interface ChainScore {
  /** Share of transitions that stay on their part. */
  local: number;
  /** Peak over mean load of the parts, averaged over layers. */
  peakMean: number;
}

/** @param partOf (layers, experts) */
export function scoreChain(transitions: Transitions, partOf: ArrayLike<number>, parts: number): ChainScore {
  const { layers, experts, counts, loads } = transitions;
  let local = 0;
  let total = 0;
  let peaks = 0;
  for (let l = 0; l < layers; l++) {
    const load = new Float64Array(parts);
    let sum = 0;
    for (let e = 0; e < experts; e++) {
      load[partOf[l * experts + e]] += loads[l * experts + e];
      sum += loads[l * experts + e];
      if (l === layers - 1) continue;
      for (let f = 0; f < experts; f++) {
        const count = counts[l][e * experts + f];
        total += count;
        if (partOf[l * experts + e] === partOf[(l + 1) * experts + f]) local += count;
      }
    }
    peaks += sum === 0 ? 1 : (Math.max(...load) * parts) / sum;
  }
  return { local: total === 0 ? 1 : local / total, peakMean: peaks / layers };
}
