import { runInTurns, runThrough, type Steps, type Turns } from '../steps.ts';
import { histogramSteps } from '../trace/pattern-histogram.ts';
import type { RoutingTrace } from '../trace/routing-trace.ts';
import { tokensAfterEnd } from '../trace/sample.ts';
import { FanOutSearch, type FanOutSearchOptions } from './fan-out-search.ts';
import { reliefPrice } from './robust-rounds.ts';

/**
 * The placement of a search on a sample as all tokens see it: homes for all sequences, and nodes relieved that stand out only now. A sample's loads are noisy, and peaks
 * are made of noise. Where time is up before that is done, it is as more tokens than the sample's see it, if so many may be looked at yet.
 */
export async function onAllTokens(
  trace: RoutingTrace,
  search: FanOutSearch,
  options: FanOutSearchOptions,
  turns: Turns,
): Promise<FanOutSearch> {
  if (search.trace.tokens === trace.tokens) return search;
  const { masks } = search.result();
  const whole = await runInTurns(onTokens(trace, masks, options), turns);
  if (whole !== null) return whole;
  const few = tokensAfterEnd(trace);
  return few.tokens > search.trace.tokens ? runThrough(onTokens(few, masks, options)) : search;
}

function* onTokens(trace: RoutingTrace, masks: readonly Int32Array[], options: FanOutSearchOptions): Steps<FanOutSearch> {
  const histograms = yield* histogramSteps(trace);
  const search = new FanOutSearch(trace, null, { ...options, histograms, sequenceWeight: null });
  yield* search.settleSteps(masks);
  yield* search.relieveSteps(options.peakMeanMax, reliefPrice);
  return search;
}
