import type { RoutingTrace } from '@switchyard/placement';
import { expertLoads } from '@switchyard/placement';
import { counted } from '../terminal/quantity.ts';

/** What a routing trace holds, in figures. */
export interface TraceSummary {
  format: 'switchyard-trace-summary';
  version: 1;
  model: string;
  layers: number;
  experts: number;
  topK: number;
  tokens: number;
  /** Of the trace of whose sequences all these figures are a sample; `tokens` where they are of the whole. */
  wholeTokens: number;
  generatedTokens: number;
  sequences: number;
  domains: { domain: string | null; sequences: number; tokens: number }[];
  /** Rows of the busiest expert over the mean, per MoE layer: 1 is perfect balance. */
  imbalance: { mean: number; max: number; layer: number };
  /** Mean total-variation distance between the expert shares of two domains, over pairs and layers: 0 means that they use the same experts. */
  domainDistance: number | null;
}

/** "1000 tokens", or what they are a sample of. Pure. */
export function tokensText({ tokens, wholeTokens = tokens }: { tokens: number; wholeTokens?: number }): string {
  return wholeTokens === tokens ? counted(tokens, 'token') : `a sample of ${tokens} of ${counted(wholeTokens, 'token')}`;
}

/** Pure. */
export function summariseTrace(trace: RoutingTrace): TraceSummary {
  const { counts } = expertLoads(trace);
  const layers = trace.moeLayers.length;
  const busiest = Array.from({ length: layers }, (_, layer) => {
    const loads = counts.subarray(layer * trace.experts, (layer + 1) * trace.experts);
    const mean = loads.reduce((sum, load) => sum + load, 0) / trace.experts;
    return mean > 0 ? Math.max(...loads) / mean : 1;
  });
  const worst = Math.max(...busiest);
  const domains = domainsOf(trace);
  return {
    format: 'switchyard-trace-summary',
    version: 1,
    model: trace.model,
    layers,
    experts: trace.experts,
    topK: trace.topK,
    tokens: trace.tokens,
    wholeTokens: trace.wholeTokens ?? trace.tokens,
    generatedTokens: trace.generated.reduce((sum, bit) => sum + bit, 0),
    sequences: trace.sequences.length,
    domains,
    imbalance: { mean: busiest.reduce((sum, x) => sum + x, 0) / layers, max: worst, layer: trace.moeLayers[busiest.indexOf(worst)] },
    domainDistance: meanDistance(rowsOfLargest(trace, domains), layers, trace.experts),
  };
}

/** Clients name domains: of more than so many only those with most tokens are compared, each with each. */
const comparedMax = 256;

/** Those with most tokens first. */
function domainsOf(trace: RoutingTrace): TraceSummary['domains'] {
  const shares = new Map<string | null, TraceSummary['domains'][number]>();
  for (const { domain, tokens } of trace.sequences) {
    const share = shares.get(domain) ?? { domain, sequences: 0, tokens: 0 };
    shares.set(domain, { domain, sequences: share.sequences + 1, tokens: share.tokens + tokens });
  }
  return [...shares.values()].sort((a, b) => b.tokens - a.tokens);
}

/** Rows by expert, (layers, experts), of each of the largest domains. */
function rowsOfLargest(trace: RoutingTrace, domains: TraceSummary['domains']): Float64Array[] {
  const layers = trace.moeLayers.length;
  const row = layers * trace.topK;
  const rowsOf = new Map(domains.slice(0, comparedMax).map(({ domain }) => [domain, new Float64Array(layers * trace.experts)]));
  for (let token = 0; token < trace.tokens; token++) {
    const rows = rowsOf.get(trace.sequences[trace.sequenceOf[token]].domain);
    if (rows === undefined) continue;
    for (let i = 0; i < row; i++) {
      const expert = trace.ids[token * row + i];
      if (expert < trace.experts) rows[Math.floor(i / trace.topK) * trace.experts + expert]++;
    }
  }
  return [...rowsOf.values()];
}

function meanDistance(domains: Float64Array[], layers: number, experts: number): number | null {
  const used = domains.map((rows) => normaliseLayers(rows, layers, experts)).filter((shares) => shares !== null);
  if (used.length < 2) return null;
  let sum = 0;
  let pairs = 0;
  for (let a = 0; a < used.length; a++)
    for (let b = a + 1; b < used.length; b++) {
      sum += used[a].reduce((distance, share, i) => distance + Math.abs(share - used[b][i]), 0) / 2 / layers;
      pairs++;
    }
  return sum / pairs;
}

/** Shares of each layer's rows, or null for a domain without rows. */
function normaliseLayers(rows: Float64Array, layers: number, experts: number): Float64Array | null {
  const shares = new Float64Array(rows.length);
  for (let layer = 0; layer < layers; layer++) {
    const part = rows.subarray(layer * experts, (layer + 1) * experts);
    const total = part.reduce((sum, count) => sum + count, 0);
    if (total === 0) return null;
    for (let expert = 0; expert < experts; expert++) shares[layer * experts + expert] = part[expert] / total;
  }
  return shares;
}
