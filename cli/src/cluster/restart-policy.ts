/** First wait before a restart, doubled after each quick death, and the longest: that of a crash loop. */
const delayMsFirst = 250;
const delayMsMax = 15_000;
/** A worker that held its model this long before it died was healthy: counting starts afresh. Loading does not count, it may take longer than this to fail. */
const healthyMs = 30_000;
/** As many quick deaths in a row are a crash loop: said once, loudly, and tried again at the longest delay. */
export const crashLoopDeaths = 5;

export interface RestartDecision {
  delayMs: number;
  /** Deaths in a row without a healthy life between them, this one included. */
  deathsInARow: number;
  crashLoop: boolean;
}

/**
 * Whether and when a dead worker starts again. Pure.
 *
 * @param deathsBefore deaths in a row before this one
 * @param servedMs     how long the worker that just died had been ready to serve, 0 if it never was
 * @param random       in [0, 1): spreads the restarts of workers that died together over half the delay
 */
export function decideRestart(deathsBefore: number, servedMs: number, random: number): RestartDecision {
  const deathsInARow = servedMs >= healthyMs ? 1 : deathsBefore + 1;
  const crashLoop = deathsInARow >= crashLoopDeaths;
  const longest = crashLoop ? delayMsMax : Math.min(delayMsMax, delayMsFirst * 2 ** (deathsInARow - 1));
  return { delayMs: Math.round(longest * (0.5 + random / 2)), deathsInARow, crashLoop };
}
