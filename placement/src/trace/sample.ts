import { seededRandom, shuffle } from '../random.ts';
import { patternsOf } from './pattern-histogram.ts';
import type { RoutingTrace } from './routing-trace.ts';

/** The tokens of the given sequences, in the trace's order. */
export function selectSequences(trace: RoutingTrace, keep: (sequence: number) => boolean): RoutingTrace {
  return selectTokens(trace, (t) => keep(trace.sequenceOf[t]));
}

/** The given tokens, with only the sequences that still have some. */
export function selectTokens(trace: RoutingTrace, keep: (token: number) => boolean): RoutingTrace {
  const row = trace.moeLayers.length * trace.topK;
  const kept: number[] = [];
  for (let t = 0; t < trace.tokens; t++) if (keep(t)) kept.push(t);
  const dense = new Map<number, number>();
  for (const t of kept) if (!dense.has(trace.sequenceOf[t])) dense.set(trace.sequenceOf[t], dense.size);
  const sequences = [...dense.keys()].map((s) => ({ ...trace.sequences[s], tokens: 0 }));
  const ids = new Uint16Array(kept.length * row);
  const sequenceOf = new Uint32Array(kept.length);
  const generated = new Uint8Array(kept.length);
  kept.forEach((t, i) => {
    ids.set(trace.ids.subarray(t * row, (t + 1) * row), i * row);
    sequenceOf[i] = dense.get(trace.sequenceOf[t])!;
    generated[i] = trace.generated[t];
    sequences[sequenceOf[i]].tokens++;
  });
  return { ...trace, tokens: kept.length, ids, sequenceOf, generated, sequences };
}

/** Splits by whole sequences, never by token: the tokens of one sequence resemble one another, so a split by token would test on what was learned. */
export function holdOut(trace: RoutingTrace, share: number, seed: number): { train: RoutingTrace; test: RoutingTrace } {
  const order = shuffle(
    trace.sequences.map((_, s) => s),
    seededRandom(seed),
  );
  const held = new Set<number>();
  let tokens = 0;
  for (const s of order) {
    if (tokens >= share * trace.tokens || held.size === trace.sequences.length - 1) break;
    held.add(s);
    tokens += trace.sequences[s].tokens;
  }
  return { train: selectSequences(trace, (s) => !held.has(s)), test: selectSequences(trace, (s) => held.has(s)) };
}

/** At most `tokensMax` tokens spread evenly over the trace, so that every sequence keeps its share. */
export function thinTokens(trace: RoutingTrace, tokensMax: number): RoutingTrace {
  if (trace.tokens <= tokensMax) return trace;
  const step = trace.tokens / tokensMax;
  let next = 0;
  return selectTokens(trace, (t) => {
    if (t < Math.floor(next * step)) return false;
    next++;
    return true;
  });
}

/** Choices, of one token in one layer each, that may be looked at when time is up: what follows a search then takes about two seconds. */
const choicesAfterEnd = 250_000;

/** The tokens that may be looked at when time is up, spread evenly over the trace; the trace itself where it is short. */
export function tokensAfterEnd(trace: RoutingTrace): RoutingTrace {
  return thinTokens(trace, Math.ceil(choicesAfterEnd / trace.moeLayers.length));
}

/** Layers that are looked at to learn how often choices repeat. */
const probedLayers = 4;

/**
 * As many tokens, spread evenly, as show at most `patternsMax` different choices in a layer: a search looks at equal choices once, so where choices repeat it can
 * afford many more tokens than where they do not.
 */
export function thinPatterns(trace: RoutingTrace, patternsMax: number): RoutingTrace {
  const layers = trace.moeLayers.length;
  const probed = Array.from({ length: Math.min(probedLayers, layers) }, (_, i) =>
    Math.floor(((i + 0.5) * layers) / Math.min(probedLayers, layers)),
  );
  let tokens = Math.min(trace.tokens, patternsMax);
  while (tokens < trace.tokens) {
    const next = Math.min(trace.tokens, 2 * tokens);
    const thinned = thinTokens(trace, next);
    const seen = probed.reduce((sum, l) => sum + patternsOf(thinned, l).patterns, 0) / probed.length;
    if (seen > patternsMax) break;
    tokens = next;
  }
  return thinTokens(trace, tokens);
}
