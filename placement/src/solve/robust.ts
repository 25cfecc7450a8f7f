/** What to minimise over the trace's named domains. */
export type Robustness = { kind: 'mean' } | { kind: 'worst' } | { kind: 'cvar'; share: number };

/**
 * The value of a robust objective: the mean over tokens, the worst domain, or CVaR: the mean over the worst `share` of the tokens, domain by domain.
 *
 * @param values one per domain @param tokens one per domain
 */
export function robustValue(values: readonly number[], tokens: readonly number[], kind: Robustness): number {
  const total = tokens.reduce((a, b) => a + b, 0);
  if (kind.kind === 'mean') return values.reduce((sum, v, d) => sum + v * tokens[d], 0) / total;
  if (kind.kind === 'worst') return values.reduce((a, b) => Math.max(a, b), -Infinity);
  const order = values.map((_, d) => d).sort((a, b) => values[b] - values[a] || a - b);
  let left = kind.share * total;
  let sum = 0;
  for (const d of order) {
    const take = Math.min(left, tokens[d]);
    sum += take * values[d];
    left -= take;
    if (left <= 0) break;
  }
  return sum / (kind.share * total);
}

/** Exponents that weights have at most before they are normalised: e^500 times any weight is still a number. */
const excessMax = 500;

/**
 * The next weight of each domain's tokens: the domains that are worse than the mean gain weight by a factor of their excess (multiplicative weights: the averaged
 * play of this game approaches the minimum of the worst case).
 */
export function reweight(weights: readonly number[], values: readonly number[], tokens: readonly number[], strength: number): number[] {
  const mean = robustValue(values, tokens, { kind: 'mean' });
  const excess = values.map((v) => (strength * (v - mean)) / Math.max(mean, 1e-9));
  // Only ratios count, and a domain that is far worse than a mean of nearly nothing must not weigh infinitely much.
  const above = Math.max(0, excess.reduce((a, b) => Math.max(a, b)) - excessMax);
  const next = weights.map((w, d) => w * Math.exp(excess[d] - above));
  const total = next.reduce((sum, w, d) => sum + w * tokens[d], 0);
  const all = tokens.reduce((a, b) => a + b, 0);
  return next.map((w) => (w * all) / total);
}
