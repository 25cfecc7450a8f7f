import { type Random, seededRandom, shuffle } from '../random.ts';
import { type ChainScore, scoreChain, type Transitions } from '../score/transitions.ts';
import { runThrough, type Steps } from '../steps.ts';
import { ChainSearch } from './chain-search.ts';

export interface ChainOptions {
  seed: number;
  /** Experts of each part, (layers) of (parts), summing to at most the number of experts; the last part takes those left over. By default as even as can be. */
  sizes?: Int32Array[];
  /** Peak over mean load allowed, averaged over layers; Infinity: locality alone. */
  peakMeanMax: number;
  /** Independent starts, the best of which is refined; and kicks of that refinement. */
  starts: number;
  kicks: number;
  /** Asked between steps: true ends the search with the best within the cap, or else the flattest found. */
  stop: () => boolean;
  /** Told the share of transitions that stay, whenever the search finds a better placement. */
  onImproved: (local: number) => void;
}

export interface ChainPlacement extends ChainScore {
  /** (layers, experts) */
  partOf: Int32Array;
}

/** Experts e in 0..E-1 over parts as evenly as integers allow; the larger parts come spread out. */
export function evenParts(layers: number, experts: number, parts: number): Int32Array {
  return Int32Array.from({ length: layers * experts }, (_, i) => Math.floor(((i % experts) * parts) / experts));
}

/** Parts of given sizes per layer. Where padding makes a layer wider than its sizes, the rest joins the last part: it carries nothing. */
function sizedParts(sizes: Int32Array[], experts: number): Int32Array {
  const partOf = new Int32Array(sizes.length * experts).fill(sizes[0].length - 1);
  sizes.forEach((size, l) => {
    let at = l * experts;
    size.forEach((count, p) => {
      partOf.fill(p, at, at + count);
      at += count;
    });
  });
  return partOf;
}

/** Places experts for tokens that stay where their expert was (ExFlow's model): same-part transitions, with a cap on the load. Keeps the thread to the end. */
export function solveChain(transitions: Transitions, parts: number, options: ChainOptions): ChainPlacement {
  return runThrough(chainSteps(transitions, parts, options));
}

/** The same, step by step: yields whenever some milliseconds have passed, and returns what `solveChain` does. */
export function* chainSteps(transitions: Transitions, parts: number, options: ChainOptions): Steps<ChainPlacement> {
  const random = seededRandom(options.seed);
  const tell = (search: ChainSearch) => options.onImproved(scoreChain(transitions, search.partOf, parts).local);
  let best = yield* start(transitions, parts, random, options);
  for (let s = 1; s < options.starts && !options.stop(); s++) {
    const next = yield* start(transitions, parts, random, options);
    if (next.objective() > best.objective()) best = next;
    tell(best);
  }
  if (options.peakMeanMax === Infinity) {
    const refined = best;
    yield* refined.kickUntil(random, options.kicks, options.stop, () => tell(refined));
    return { partOf: refined.partOf, ...scoreChain(transitions, refined.partOf, parts) };
  }
  return yield* capLoad(transitions, parts, best, random, options);
}

function* start(transitions: Transitions, parts: number, random: Random, options: ChainOptions): Steps<ChainSearch> {
  const { layers, experts } = transitions;
  const partOf = options.sizes === undefined ? evenParts(layers, experts, parts) : sizedParts(options.sizes, experts);
  for (let l = 0; l < layers; l++) shuffle(partOf.subarray(l * experts, (l + 1) * experts), random);
  const search = new ChainSearch(transitions, parts, partOf);
  yield* search.sweepForward(options.stop);
  yield* search.respondAll(options.stop);
  yield* search.resplitAll(
    Array.from({ length: parts }, (_, p) => p),
    options.stop,
  );
  return search;
}

/**
 * Raises the price of load step by step, each from the placement before, until the cap holds; then narrows the price down and kicks on at the lowest that holds.
 * The best placement within the cap wins; where none was found, the flattest.
 */
function* capLoad(
  transitions: Transitions,
  parts: number,
  from: ChainSearch,
  random: Random,
  options: ChainOptions,
): Steps<ChainPlacement> {
  const all = Array.from({ length: parts }, (_, p) => p);
  const rounds = 14;
  const pricesMax = 40;
  let best: ChainPlacement | null = null;
  let flattest: ChainPlacement = { partOf: from.partOf.slice(), ...scoreChain(transitions, from.partOf, parts) };
  let low = 0;
  let high = Infinity;
  let price = 1;
  let last = from.partOf;
  for (let round = 0, tried = 0; round < rounds && tried < pricesMax && !options.stop(); tried++) {
    const search = new ChainSearch(transitions, parts, last);
    search.loadPrice = price;
    yield* search.resplitAll(all, options.stop);
    yield* search.kickUntil(random, Math.ceil(options.kicks / rounds), options.stop, () => {});
    const score = scoreChain(transitions, search.partOf, parts);
    const here = { partOf: search.partOf.slice(), ...score };
    if (score.peakMean < flattest.peakMean) flattest = here;
    const holds = score.peakMean <= options.peakMeanMax;
    if (holds && (best === null || score.local > best.local)) {
      best = here;
      options.onImproved(here.local);
    }
    if (holds) high = price;
    else low = price;
    if (high < Infinity) round++;
    // While the cap is out of reach, go on from here; then from the best within it.
    last = best === null ? search.partOf : best.partOf;
    price = high === Infinity ? price * 1.7 : Math.max((low + high) / 2, high * 0.8);
  }
  return best ?? flattest;
}
