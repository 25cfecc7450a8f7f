import type { Sampling } from '@switchyard/proto';
import { addExps, expNonPositive, STRIDE, sumOfExps } from './exponential.ts';
import { argmax, topTokens } from './logits.ts';
import { uniformAt } from './random.ts';
import { leastMass, Selection } from './selection.ts';
import type { TokenHistory } from './token-history.ts';

/** What one choice depends on besides the logits. */
export interface Choice {
  sampling: Sampling;
  /** Null unless the request has penalties. */
  history: TokenHistory | null;
  /** Tokens that may not be chosen yet (stop tokens before `minTokens`). */
  masked: ArrayLike<number>;
  /** Which of the request's outputs this is, from 0: the counter of its random stream. */
  index: number;
}

/** Up to so many tokens are kept in order while the row is passed; buckets are faster for more. */
const TOP_FEW = 64;

/**
 * Chooses the next token from a row of logits. A pure function of the row and the choice: no state survives a call but scratch memory, which is sized once for
 * the vocabulary.
 *
 * Order of operations, as vLLM's: logit bias, penalties (repetition, presence, frequency), mask, temperature, top-k, top-p, min-p, draw. Ties at a cut go to the
 * lower id. Everything after the logits is float64. What is left out to save time (tokens that no cut can reach, masses that are 0) changes no bit of a sum.
 */
export class Sampler {
  /** Logits after bias, penalties and mask. (vocab) */
  private readonly adjusted: Float64Array;
  /** Tokens still in the draw, ascending, and beside each its mass exp((z - max) / temperature). (vocab) */
  private readonly kept: Int32Array;
  private readonly mass: Float64Array;
  /** Masses of all tokens before each stride, added up. */
  private readonly sums: Float64Array;
  private readonly selection: Selection;

  constructor(vocab: number) {
    this.adjusted = new Float64Array(vocab);
    this.kept = new Int32Array(vocab);
    this.mass = new Float64Array(vocab);
    this.sums = new Float64Array(Math.ceil(vocab / STRIDE));
    this.selection = new Selection(vocab);
  }

  /** @param row raw logits (vocab) */
  choose(row: Float64Array, choice: Choice): number {
    const logits = isPlain(choice) ? row : this.adjust(row, choice);
    const best = argmax(logits);
    return choice.sampling.temperature === 0 ? best : this.draw(logits, logits[best], choice);
  }

  /** Bias, penalties and mask. */
  private adjust(row: Float64Array, { sampling, history, masked }: Choice): Float64Array {
    const { adjusted } = this;
    adjusted.set(row);
    for (let i = 0; i < sampling.biasToken.length; i++) adjusted[sampling.biasToken[i]] += sampling.biasValue[i];
    if (history !== null) {
      for (const [token, produced] of history.produced) {
        const logit = adjusted[token];
        const repeated = logit > 0 ? logit / sampling.repetitionPenalty : logit * sampling.repetitionPenalty;
        adjusted[token] = produced === 0 ? repeated : repeated - sampling.frequencyPenalty * produced - sampling.presencePenalty;
      }
    }
    for (let i = 0; i < masked.length; i++) adjusted[masked[i]] = Number.NEGATIVE_INFINITY;
    return adjusted;
  }

  private draw(logits: Float64Array, max: number, { sampling, index }: Choice): number {
    const { kept, mass } = this;
    const { topK, topP, minP } = sampling;
    // The smallest temperatures have no finite reciprocal, and what lies at the maximum must stay there.
    const perUnit = Math.min(1 / sampling.temperature, Number.MAX_VALUE);
    const uniform = uniformAt(sampling.seed, index);
    let count: number;
    if (topK > 0 && topK < logits.length) {
      count = this.keepLargest(logits, max, topK);
      const total = weigh(logits, kept, count, max, perUnit, mass);
      if (topP < 1) count = this.selection.keepMass(kept, mass, count, topP * total, 0)!;
    } else if (topP < 1) count = this.keepMass(logits, max, perUnit, topP);
    else if (minP > 0) count = keepAbove(minP, logits, max, perUnit, kept, mass);
    else return this.drawFromAll(logits, max, perUnit, uniform);
    // The largest mass is exp(0) = 1, so min-p is a plain threshold.
    if (minP > 0) count = dropBelow(minP, kept, mass, count);
    let total = 0;
    for (let i = 0; i < count; i++) total += mass[i];
    return walk(kept, mass, count, uniform * total);
  }

  private keepLargest(logits: Float64Array, max: number, topK: number): number {
    if (topK > TOP_FEW) return this.selection.keepLargest(logits, max, topK, this.kept);
    this.kept.set(topTokens(logits, topK).sort((a, b) => a - b));
    return topK;
  }

  /** What top-p keeps of the whole vocabulary: all tokens below `least` together have less than what it leaves out, up to rounding. */
  private keepMass(logits: Float64Array, max: number, perUnit: number, topP: number): number {
    const { kept, mass, selection } = this;
    const least = leastMass((1 - topP) / logits.length);
    const wanted = topP * sumOfExps(logits, max, perUnit);
    const count = keepAbove(least, logits, max, perUnit, kept, mass);
    const left = selection.keepMass(kept, mass, count, wanted, least);
    return left ?? selection.keepMass(kept, mass, keepAbove(0, logits, max, perUnit, kept, mass), wanted, 0)!;
  }

  /** With nothing cut off: masses are added up, and up again from the last known sum below the point. */
  private drawFromAll(logits: Float64Array, max: number, perUnit: number, uniform: number): number {
    const { sums } = this;
    const vocab = logits.length;
    let total = 0;
    for (let i = 0; i < sums.length; i++) {
      sums[i] = total;
      total = addExps(logits, i, max, perUnit, total);
    }
    const point = uniform * total;
    let stride = sums.length - 1;
    while (stride > 0 && point < sums[stride]) stride--;
    let passed = sums[stride];
    for (let i = stride * STRIDE; i < vocab; i++) {
      passed += expNonPositive((logits[i] - max) * perUnit);
      if (point < passed) return i;
    }
    // The point fell on the rounding of the last sum.
    let last = vocab - 1;
    while (expNonPositive((logits[last] - max) * perUnit) === 0) last--;
    return last;
  }
}

/** Masses of the tokens beside them; returns their sum. */
function weigh(logits: Float64Array, tokens: Int32Array, count: number, max: number, perUnit: number, mass: Float64Array): number {
  let total = 0;
  for (let i = 0; i < count; i++) {
    const m = expNonPositive((logits[tokens[i]] - max) * perUnit);
    mass[i] = m;
    total += m;
  }
  return total;
}

/** Writes the tokens of at least that mass, ascending, and beside each its mass; returns how many. */
function keepAbove(least: number, logits: Float64Array, max: number, perUnit: number, kept: Int32Array, mass: Float64Array): number {
  // What is clearly below needs no exp to be told.
  const floor = Math.log(least) - 0.01;
  let count = 0;
  for (let i = 0; i < logits.length; i++) {
    const x = (logits[i] - max) * perUnit;
    if (x < floor) continue;
    const m = expNonPositive(x);
    if (m < least) continue;
    kept[count] = i;
    mass[count++] = m;
  }
  return count;
}

/** Keeps masses of at least `least`, in place. */
function dropBelow(least: number, kept: Int32Array, mass: Float64Array, count: number): number {
  let out = 0;
  for (let i = 0; i < count; i++) {
    if (mass[i] < least) continue;
    kept[out] = kept[i];
    mass[out++] = mass[i];
  }
  return out;
}

/** The token in whose share of the total mass the point lies. */
function walk(tokens: Int32Array, mass: Float64Array, count: number, point: number): number {
  let passed = 0;
  let last = 0;
  for (let i = 0; i < count; i++) {
    if (mass[i] === 0) continue;
    passed += mass[i];
    if (point < passed) return tokens[i];
    last = i;
  }
  return tokens[last]; // the point fell on the rounding of the last sum
}

function isPlain({ sampling, history, masked }: Choice): boolean {
  return history === null && sampling.biasToken.length === 0 && masked.length === 0;
}
