import type { Cluster } from '../cluster/cluster.ts';
import type { RoutingTrace } from '../trace/routing-trace.ts';
import { sequenceHomeCosts } from './affinity.ts';
import { FanOutSearch, type FanOutSearchOptions, type NodePlacement } from './fan-out-search.ts';
import { type Robustness, reweight, robustValue } from './robust.ts';

/** What a row less on a node that stands out is worth, in visits, once the search is over. */
export const reliefPrice = 8;

export interface RobustOptions {
  robust: Robustness;
  /** What domains are compared by: visits of remote nodes, or rows that homes do not serve. */
  counts: 'visits' | 'rows';
  peakMeanMax: number;
  onProgress: (progress: { stage: string; incumbent: number }) => void;
}

/**
 * A few rounds of multiplicative weights over the domains; leaves the search with the best by the robust value whose peaks, all tokens counted alike, are within the
 * limit, or no higher than they were.
 */
export async function robustly(
  sample: RoutingTrace,
  cluster: Cluster,
  search: FanOutSearch,
  base: FanOutSearchOptions,
  o: RobustOptions,
  stop: () => boolean,
): Promise<void> {
  const names = [...new Set(sample.sequences.map((s) => s.domain ?? ''))];
  // Clients name domains, so there may be as many as sequences.
  const numberOf = new Map(names.map((name, d) => [name, d]));
  const domainOf = sample.sequences.map((s) => numberOf.get(s.domain ?? '')!);
  const tokens = names.map(() => 0);
  sample.sequences.forEach((s, i) => {
    tokens[domainOf[i]] += s.tokens;
  });
  const valuesOf = ({ masks, homeOf }: NodePlacement) => {
    const { visits, rows } = sequenceHomeCosts(sample, masks, cluster);
    const cost = o.counts === 'rows' ? rows : visits;
    const sums = names.map(() => 0);
    sample.sequences.forEach((s, i) => {
      sums[domainOf[i]] += cost[i * base.slots.length + homeOf[i]] * s.tokens;
    });
    return sums.map((sum, d) => sum / tokens[d]);
  };
  let best = search.result();
  const peakMax = Math.max(o.peakMeanMax, search.peakMean());
  let values = valuesOf(best);
  let bestValue = robustValue(values, tokens, o.robust);
  let weights = names.map(() => 1);
  let last = best;
  for (let round = 0; round < 6 && !stop(); round++) {
    weights = reweight(weights, values, tokens, 1);
    const sequenceWeight = Float64Array.from(domainOf, (d) => weights[d]);
    const next = new FanOutSearch(sample, last.homeOf, { ...base, prices: search.prices, sequenceWeight });
    next.load(last.masks);
    await next.converge(4, 1e-3);
    // Its peaks are those of weighted tokens: what is kept is judged by those that there are.
    search.resume(next.result());
    search.relieve(o.peakMeanMax, reliefPrice);
    last = search.result();
    values = valuesOf(last);
    const value = robustValue(values, tokens, o.robust);
    o.onProgress({ stage: `${o.robust.kind} over domains, round ${round + 1}`, incumbent: Math.min(value, bestValue) });
    if (value >= bestValue || search.peakMean() > peakMax + 1e-9) continue;
    bestValue = value;
    best = last;
  }
  search.resume(best);
}
