import type { Sampling } from '@switchyard/proto';
import { expNonPositive } from './exponential.ts';
import { argmax, argmaxAdjusted } from './logits.ts';
import { uniformAt } from './random.ts';
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

/**
 * Chooses the next token from a row of logits. A pure function of the row and the choice: no state survives a call but scratch memory, which is sized once for
 * the vocabulary.
 *
 * Order of operations, as vLLM's: logit bias, penalties (repetition, presence, frequency), mask, temperature, top-k, top-p, min-p, draw. Ties at a cut go to the
 * lower id. Everything after the logits is float64.
 */
export class Sampler {
  private readonly vocab: number;
  /** Logits after bias, penalties and mask. (vocab) */
  private readonly adjusted: Float64Array;
  private readonly everyToken: Int32Array;
  /** Tokens still in the draw, ascending, and beside each its mass exp((z - max) / temperature). (vocab) */
  private readonly kept: Int32Array;
  private readonly mass: Float64Array;
  private readonly selection: Selection;

  constructor(vocab: number) {
    this.vocab = vocab;
    this.adjusted = new Float64Array(vocab);
    this.everyToken = Int32Array.from({ length: vocab }, (_, i) => i);
    this.kept = new Int32Array(vocab);
    this.mass = new Float64Array(vocab);
    this.selection = new Selection(vocab);
  }

  choose(logits: Float32Array, offset: number, choice: Choice): number {
    const { sampling } = choice;
    if (sampling.temperature === 0 && isPlain(choice)) return argmax(logits, offset, this.vocab);
    this.adjust(logits, offset, choice);
    const best = argmaxAdjusted(this.adjusted);
    return sampling.temperature === 0 ? best : this.draw(this.adjusted[best], choice);
  }

  /** Bias, penalties and mask. */
  private adjust(logits: Float32Array, offset: number, { sampling, history, masked }: Choice): void {
    const { adjusted, vocab } = this;
    for (let i = 0; i < vocab; i++) adjusted[i] = logits[offset + i];
    for (let i = 0; i < sampling.biasToken.length; i++) adjusted[sampling.biasToken[i]] += sampling.biasValue[i];
    if (history !== null) {
      for (const [token, produced] of history.produced) {
        const logit = adjusted[token];
        const repeated = logit > 0 ? logit / sampling.repetitionPenalty : logit * sampling.repetitionPenalty;
        adjusted[token] = produced === 0 ? repeated : repeated - sampling.frequencyPenalty * produced - sampling.presencePenalty;
      }
    }
    for (let i = 0; i < masked.length; i++) adjusted[masked[i]] = Number.NEGATIVE_INFINITY;
  }

  private draw(max: number, { sampling, index }: Choice): number {
    const { adjusted, mass, selection, vocab } = this;
    // The smallest temperatures have no finite reciprocal, and what lies at the maximum must stay there.
    const perUnit = Math.min(1 / sampling.temperature, Number.MAX_VALUE);
    let tokens = this.everyToken;
    let count = vocab;
    if (sampling.topK > 0 && sampling.topK < vocab) {
      count = selection.keepLargest(adjusted, max, sampling.topK, this.kept);
      tokens = this.kept;
    }
    let total = weigh(adjusted, tokens, count, max, perUnit, mass);
    if (sampling.topP < 1) {
      count = selection.keepMass(tokens, mass, count, sampling.topP * total, this.kept);
      tokens = this.kept;
    }
    // The largest mass is exp(0) = 1, so min-p is a plain threshold.
    if (sampling.minP > 0) {
      count = keepAbove(sampling.minP, tokens, mass, count, this.kept);
      tokens = this.kept;
    }
    if (count < vocab) {
      total = 0;
      for (let i = 0; i < count; i++) total += mass[i];
    }
    return walk(tokens, mass, count, uniformAt(sampling.seed, index) * total);
  }
}

/** Masses of the tokens beside them; returns their sum. A function of its own, for it is most of a choice's time and compiles best alone. */
function weigh(key: Float64Array, tokens: Int32Array, count: number, max: number, perUnit: number, mass: Float64Array): number {
  let total = 0;
  for (let i = 0; i < count; i++) {
    const m = expNonPositive((key[tokens[i]] - max) * perUnit);
    mass[i] = m;
    total += m;
  }
  return total;
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

/** Keeps masses of at least `least`, in place. `kept` may be `tokens`. */
function keepAbove(least: number, tokens: Int32Array, mass: Float64Array, count: number, kept: Int32Array): number {
  let out = 0;
  for (let i = 0; i < count; i++) {
    if (mass[i] < least) continue;
    kept[out] = tokens[i];
    mass[out++] = mass[i];
  }
  return out;
}

function isPlain({ sampling, history, masked }: Choice): boolean {
  return history === null && sampling.biasToken.length === 0 && masked.length === 0;
}

/**
 * Partial selection by descending key, ties to the lower id, without sorting everything: keys fall into buckets, whole buckets are kept up to the one where the
 * cut lies, and only that one is sorted. What is kept stays in ascending id.
 */
class Selection {
  private readonly bucketOf: Uint16Array;
  private readonly weight = new Float64Array(BUCKETS);

  constructor(vocab: number) {
    this.bucketOf = new Uint16Array(vocab);
  }

  /** Writes the `wanted` tokens with the largest keys into `kept`; returns how many. */
  keepLargest(key: Float64Array, max: number, wanted: number, kept: Int32Array): number {
    const { bucketOf, weight } = this;
    weight.fill(0);
    for (let i = 0; i < key.length; i++) {
      const depth = (max - key[i]) * BUCKETS_PER_UNIT;
      const bucket = depth < LAST_BUCKET ? depth | 0 : LAST_BUCKET;
      bucketOf[i] = bucket;
      weight[bucket]++;
    }
    let boundary = 0;
    let sure = 0;
    while (sure + weight[boundary] < wanted) sure += weight[boundary++];
    const chosen = this.ordered(boundary, key.length, key)
      .slice(0, wanted - sure)
      .sort((a, b) => a - b);
    let out = 0;
    let next = 0;
    for (let i = 0; i < key.length; i++) {
      if (bucketOf[i] > boundary) continue;
      if (bucketOf[i] < boundary) kept[out++] = i;
      else if (next < chosen.length && chosen[next] === i) {
        kept[out++] = i;
        next++;
      }
    }
    return out;
  }

  /**
   * Keeps the smallest set of tokens, largest mass first, whose mass reaches `wanted`; one at least. `mass` is compacted in place, `kept` may be `tokens`.
   * Returns how many are left.
   */
  keepMass(tokens: Int32Array, mass: Float64Array, count: number, wanted: number, kept: Int32Array): number {
    const { bucketOf, weight } = this;
    weight.fill(0);
    for (let i = 0; i < count; i++) {
      const bucket = massBucket(mass[i]);
      bucketOf[i] = bucket;
      weight[bucket] += mass[i];
    }
    let boundary = 0;
    let sum = 0;
    while (boundary < LAST_BUCKET && sum + weight[boundary] < wanted) sum += weight[boundary++];
    const ordered = this.ordered(boundary, count, mass);
    let taken = 0;
    while (taken < ordered.length && (sum < wanted || (boundary === 0 && taken === 0))) sum += mass[ordered[taken++]];
    const chosen = ordered.slice(0, taken).sort((a, b) => a - b);
    let out = 0;
    let next = 0;
    for (let i = 0; i < count; i++) {
      if (bucketOf[i] > boundary) continue;
      if (bucketOf[i] === boundary) {
        if (next === chosen.length || chosen[next] !== i) continue;
        next++;
      }
      kept[out] = tokens[i];
      mass[out++] = mass[i];
    }
    return out;
  }

  /** Places of a bucket's members, largest key first. */
  private ordered(bucket: number, count: number, key: Float64Array): number[] {
    const members: number[] = [];
    for (let i = 0; i < count; i++) if (this.bucketOf[i] === bucket) members.push(i);
    return members.sort((a, b) => key[b] - key[a] || a - b);
  }
}

const BUCKETS = 1024;
const LAST_BUCKET = BUCKETS - 1;
const BUCKETS_PER_UNIT = 16;

const massBits = new Float64Array(1);
const massWords = new Uint32Array(massBits.buffer);

/** Larger masses in lower buckets; a mass in (0, 1] has 8 buckets per power of two, and zero and the tiniest share the last. */
function massBucket(mass: number): number {
  massBits[0] = mass;
  const eighths = (0x3ff00000 - massWords[1]) >> 17; // exponent and the three leading mantissa bits, from 1 downwards
  return Math.min(eighths, LAST_BUCKET);
}
