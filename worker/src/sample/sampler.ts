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

/** What is kept of the bucket in which a cut lies: its keys above `key`, and the first `equals` of those that equal it. */
interface Cut {
  key: number;
  equals: number;
}

/**
 * Partial selection by descending key, ties to the lower id, without sorting everything: keys fall into buckets, whole buckets are kept up to the one where the
 * cut lies, and only that one is put in order. It may have nearly all of them: a large logit bias leaves the others far below. What is kept stays in ascending id.
 */
class Selection {
  private readonly bucketOf: Uint16Array;
  private readonly weight = new Float64Array(BUCKETS);
  private readonly members: Float64Array;

  constructor(vocab: number) {
    this.bucketOf = new Uint16Array(vocab);
    this.members = new Float64Array(vocab);
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
    const members = this.membersOf(boundary, key.length, key);
    moveLargest(members, wanted - sure);
    const cut = cutBefore(members, wanted - sure);
    let out = 0;
    let equals = 0;
    for (let i = 0; i < key.length; i++) {
      if (bucketOf[i] > boundary) continue;
      if (bucketOf[i] === boundary && (key[i] < cut.key || (key[i] === cut.key && ++equals > cut.equals))) continue;
      kept[out++] = i;
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
    // Sums depend on the order of their terms.
    const ascending = this.membersOf(boundary, count, mass).sort();
    let taken = 0;
    while (taken < ascending.length && (sum < wanted || (boundary === 0 && taken === 0))) sum += ascending[ascending.length - ++taken];
    const cut = cutBefore(ascending, taken);
    let out = 0;
    let equals = 0;
    for (let i = 0; i < count; i++) {
      if (bucketOf[i] > boundary) continue;
      if (bucketOf[i] === boundary && (mass[i] < cut.key || (mass[i] === cut.key && ++equals > cut.equals))) continue;
      kept[out] = tokens[i];
      mass[out++] = mass[i];
    }
    return out;
  }

  /** Keys of a bucket; valid until the next call. */
  private membersOf(bucket: number, count: number, key: Float64Array): Float64Array {
    const { bucketOf, members } = this;
    let found = 0;
    for (let i = 0; i < count; i++) if (bucketOf[i] === bucket) members[found++] = key[i];
    return members.subarray(0, found);
  }
}

/** The cut that keeps the last `taken` keys, none of which is below any other: the least of them comes first. */
function cutBefore(keys: Float64Array, taken: number): Cut {
  if (taken === 0) return { key: Number.POSITIVE_INFINITY, equals: 0 };
  const first = keys.length - taken;
  const key = keys[first];
  let equals = 0;
  for (let i = first; i < keys.length; i++) if (keys[i] === key) equals++;
  return { key, equals };
}

/** Moves the `wanted` largest keys to the end, the least of them first: Hoare's selection, which looks at each key two or three times. */
function moveLargest(keys: Float64Array, wanted: number): void {
  const place = keys.length - wanted;
  let low = 0;
  let high = keys.length - 1;
  while (low < high) {
    const pivot = median(keys[low], keys[(low + high) >> 1], keys[high]);
    let i = low;
    let j = high;
    while (i <= j) {
      while (keys[i] < pivot) i++;
      while (keys[j] > pivot) j--;
      if (i > j) break;
      const key = keys[i];
      keys[i++] = keys[j];
      keys[j--] = key;
    }
    if (place <= j) high = j;
    else if (place >= i) low = i;
    else return;
  }
}

function median(a: number, b: number, c: number): number {
  return Math.max(Math.min(a, b), Math.min(Math.max(a, b), c));
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
