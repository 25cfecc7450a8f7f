import { runThrough, type Steps } from '../steps.ts';
import { NO_EXPERT, type RoutingTrace } from './routing-trace.ts';

/**
 * The different sets of experts that the tokens of one layer chose. What a token costs depends on its set and its home alone, so a search over all tokens of a long
 * trace need only look at each (set, home) once, with a weight: a layer of 32 experts with top-4 shows a few thousand sets in 200,000 tokens.
 */
export interface PatternHistogram {
  patterns: number;
  /** Expert ids of each pattern, ascending, (patterns, topK), and how many there are, (patterns). */
  ids: Uint16Array;
  countOf: Uint8Array;
  /** (tokens) */
  patternOf: Uint32Array;
}

/** One layer's patterns, in the order of first appearance. */
export function patternsOf(trace: RoutingTrace, layer: number): PatternHistogram {
  const { topK, tokens } = trace;
  const layers = trace.moeLayers.length;
  const patternOf = new Uint32Array(tokens);
  let ids = new Uint16Array(Math.min(1024, tokens) * topK);
  let countOf = new Uint8Array(Math.min(1024, tokens));
  let buckets = new Int32Array(4096).fill(-1);
  let patterns = 0;
  const own = new Uint16Array(topK);
  const hashOf = (of: Uint16Array, at: number, count: number) => {
    let hash = count;
    for (let k = 0; k < count; k++) hash = Math.imul(hash ^ of[at + k], 0x01000193) ^ (hash >>> 15);
    return Math.imul(hash ^ (hash >>> 13), 0x5bd1e995) >>> 0;
  };
  for (let t = 0; t < tokens; t++) {
    let count = 0;
    for (let k = 0; k < topK; k++) {
      const e = trace.ids[(t * layers + layer) * topK + k];
      if (e === NO_EXPERT) continue;
      let at = count++;
      for (; at > 0 && own[at - 1] > e; at--) own[at] = own[at - 1];
      own[at] = e;
    }
    let bucket = hashOf(own, 0, count) & (buckets.length - 1);
    let found = -1;
    for (; buckets[bucket] >= 0; bucket = (bucket + 1) & (buckets.length - 1)) {
      const p = buckets[bucket];
      let same = countOf[p] === count;
      for (let k = 0; same && k < count; k++) same = ids[p * topK + k] === own[k];
      if (same) {
        found = p;
        break;
      }
    }
    if (found < 0) {
      found = patterns++;
      if (found === countOf.length) {
        const size = Math.min(tokens, 2 * found);
        ids = grown(ids, new Uint16Array(size * topK));
        countOf = grown(countOf, new Uint8Array(size));
      }
      for (let k = 0; k < count; k++) ids[found * topK + k] = own[k];
      countOf[found] = count;
      buckets[bucket] = found;
      if (2 * patterns > buckets.length) {
        buckets = new Int32Array(2 * buckets.length).fill(-1);
        for (let p = 0; p < patterns; p++) {
          let b = hashOf(ids, p * topK, countOf[p]) & (buckets.length - 1);
          while (buckets[b] >= 0) b = (b + 1) & (buckets.length - 1);
          buckets[b] = p;
        }
      }
    }
    patternOf[t] = found;
  }
  return { patterns, ids: ids.slice(0, patterns * topK), countOf: countOf.slice(0, patterns), patternOf };
}

function grown<A extends Uint16Array | Uint8Array>(from: A, to: A): A {
  to.set(from);
  return to;
}

/** The patterns of every layer: once for all searches of a trace. */
export function histogramsOf(trace: RoutingTrace): PatternHistogram[] {
  return runThrough(histogramSteps(trace));
}

/** The same, layer by layer. */
export function* histogramSteps(trace: RoutingTrace): Steps<PatternHistogram[]> {
  const histograms: PatternHistogram[] = [];
  for (let l = 0; l < trace.moeLayers.length; l++) {
    histograms.push(patternsOf(trace, l));
    yield;
  }
  return histograms;
}

/** What a layer's search looks at: each pattern once for every home that it is seen at. */
export interface PatternEntries {
  count: number;
  /** (entries) */
  patternOf: Int32Array;
  homeOf: Uint8Array;
  /** How much its tokens count together, (entries). */
  weightOf: Float64Array;
}

/**
 * @param homeOf   home node of each token, (tokens)
 * @param weightOf weight of each token, (tokens); null: 1
 * @param scratch  (patterns, nodes) at least, all zero; left all zero
 */
export function entriesOf(
  histogram: PatternHistogram,
  homeOf: Uint8Array,
  weightOf: Float64Array | null,
  nodes: number,
  scratch: Float64Array,
): PatternEntries {
  const { patternOf, patterns } = histogram;
  let count = 0;
  for (let t = 0; t < patternOf.length; t++) {
    const at = patternOf[t] * nodes + homeOf[t];
    if (scratch[at] === 0) count++;
    scratch[at] += weightOf === null ? 1 : weightOf[t];
  }
  const entries: PatternEntries = {
    count,
    patternOf: new Int32Array(count),
    homeOf: new Uint8Array(count),
    weightOf: new Float64Array(count),
  };
  let i = 0;
  for (let p = 0; p < patterns; p++)
    for (let h = 0; h < nodes; h++) {
      const weight = scratch[p * nodes + h];
      if (weight === 0) continue;
      entries.patternOf[i] = p;
      entries.homeOf[i] = h;
      entries.weightOf[i++] = weight;
      scratch[p * nodes + h] = 0;
    }
  return { ...entries, count: i };
}
