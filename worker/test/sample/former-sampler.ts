/**
 * Sampling as it was before it was made fast, to the letter: what a client receives for a seed, and the log-probabilities beside it, must stay what this computes,
 * bit for bit.
 */
import { SwitchyardError } from '@switchyard/proto';
import { uniformAt } from '../../src/sample/random.ts';
import type { Choice } from '../../src/sample/sampler.ts';

/**
 * exp(x) for x <= 0 in IEEE doubles, from additions and multiplications alone, so that its bits do not depend on the JavaScript engine or the machine.
 * Within 2 ulp of the true value. Below `EXP_FLOOR` it is 0: such a term is under 2^-72 of the largest one and cannot change a float64 sum of a vocabulary.
 *
 * x = (k / 32) ln 2 + r with |r| <= ln 2 / 64; exp(x) = 2^(k >> 5) * 2^((k & 31) / 32) * exp(r), and exp(r) is a Taylor polynomial of degree 6.
 */
const EXP_FLOOR = -50;

const STEPS_PER_UNIT = 46.16624130844683;
/** ln 2 / 32 in two parts; the first ends in 22 zero bits, so that its product with k is exact. */
const STEP_HIGH = 0.02166084937925916;
const STEP_LOW = 1.3239129268154012e-11;

/** 2^(j / 32) for j = 0 .. 31, as literals because a library's pow may round differently elsewhere. */
// biome-ignore format: a table
const FRACTION = Float64Array.of(
  1.0, 1.0218971486541166, 1.0442737824274138, 1.0671404006768237, 1.0905077326652577, 1.1143867425958924, 1.1387886347566916, 1.1637248587775775,
  1.189207115002721, 1.215247359980469, 1.241857812073484, 1.2690509571917332, 1.2968395546510096, 1.3252366431597413, 1.3542555469368927, 1.383909881963832,
  Math.SQRT2, 1.4451808069770467, 1.4768261459394993, 1.5091644275934228, 1.5422108254079407, 1.5759808451078865, 1.6104903319492543, 1.645755478153965,
  1.681792830507429, 1.718619298122478, 1.7562521603732995, 1.7947090750031072, 1.8340080864093424, 1.8741676341103, 1.9152065613971474, 1.9571441241754002,
);

/** 2^(i - 74) for i = 0 .. 74: all that x > EXP_FLOOR can need. */
const POWER_BIAS = 74;
const POWER = Float64Array.from({ length: POWER_BIAS + 1 }, (_, i) => 1 / 2 ** (POWER_BIAS - i));

export function expNonPositive(x: number): number {
  if (!(x > EXP_FLOOR)) return 0;
  const k = Math.floor(x * STEPS_PER_UNIT + 0.5);
  const r = x - k * STEP_HIGH - k * STEP_LOW;
  const p = 1 + r * (1 + r * (1 / 2 + r * (1 / 6 + r * (1 / 24 + r * (1 / 120 + r * (1 / 720))))));
  return p * FRACTION[k & 31] * POWER[(k >> 5) + POWER_BIAS];
}

/** Index of the largest of `count` logits from `offset` on; ties go to the lower index. Throws `internal` for a NaN, and when the largest is not finite. */
function argmax(logits: Float32Array, offset: number, count: number): number {
  let best = -1;
  let bestValue = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < count; i++) {
    const value = logits[offset + i];
    // Greater, or no number.
    if (!(value <= bestValue)) {
      if (Number.isNaN(value)) throw notANumber(i);
      bestValue = value;
      best = i;
    }
  }
  if (!Number.isFinite(bestValue)) throw noNumber(count, bestValue);
  return best;
}

/** The same for adjusted logits. Written twice because a loop over one element type is twice as fast as one over two. */
function argmaxAdjusted(adjusted: Float64Array): number {
  let best = -1;
  let bestValue = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < adjusted.length; i++) {
    const value = adjusted[i];
    if (!(value <= bestValue)) {
      if (Number.isNaN(value)) throw notANumber(i);
      bestValue = value;
      best = i;
    }
  }
  if (!Number.isFinite(bestValue)) throw noNumber(adjusted.length, bestValue);
  return best;
}

function notANumber(token: number): SwitchyardError {
  return new SwitchyardError('internal', `the logit of token ${token} is not a number: weights or cache are corrupt`);
}

function noNumber(count: number, largest: number): SwitchyardError {
  return new SwitchyardError('internal', `the largest of ${count} logits is ${largest}: weights or cache are corrupt`);
}

/**
 * log of the sum of exp over a row of raw logits, in float64, terms added in ascending token id: one order for every path, so that a token's logprob has the same
 * bits whether the token was decoded, streamed, or given as a prompt.
 */
export function logSumExp(logits: Float32Array, offset: number, count: number): number {
  const max = logits[offset + argmax(logits, offset, count)];
  let sum = 0;
  for (let i = 0; i < count; i++) sum += expNonPositive(logits[offset + i] - max);
  return max + Math.log(sum);
}

/** The `wanted` most likely tokens in descending logit, ties to the lower id: one pass with a sorted list of at most `wanted` entries (limits.topLogprobsMax). */
export function topTokens(logits: Float32Array, offset: number, count: number, wanted: number): number[] {
  const tokens: number[] = [];
  let floor = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < count; i++) {
    const value = logits[offset + i];
    if (tokens.length === wanted && !(value > floor)) continue;
    let at = tokens.length;
    while (at > 0 && logits[offset + tokens[at - 1]] < value) at--;
    tokens.splice(at, 0, i);
    if (tokens.length > wanted) tokens.pop();
    if (tokens.length === wanted) floor = logits[offset + tokens[wanted - 1]];
  }
  return tokens;
}

/**
 * Chooses the next token from a row of logits. A pure function of the row and the choice: no state survives a call but scratch memory, which is sized once for
 * the vocabulary.
 *
 * Order of operations, as vLLM's: logit bias, penalties (repetition, presence, frequency), mask, temperature, top-k, top-p, min-p, draw. Ties at a cut go to the
 * lower id. Everything after the logits is float64.
 */
export class FormerSampler {
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
