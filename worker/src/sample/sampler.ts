import type { Sampling } from '@switchyard/proto';
import { expNonPositive } from './exponential.ts';
import { argmax } from './logits.ts';
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
  /** Adjusted logits, then logits over temperature. (vocab) */
  private readonly adjusted: Float64Array;
  /** Tokens still in the draw, ascending, and their masses exp(z - max). (vocab) */
  private readonly candidate: Int32Array;
  private readonly mass: Float64Array;
  private readonly selection: Selection;

  constructor(vocab: number) {
    this.vocab = vocab;
    this.adjusted = new Float64Array(vocab);
    this.candidate = new Int32Array(vocab);
    this.mass = new Float64Array(vocab);
    this.selection = new Selection(vocab);
  }

  choose(logits: Float32Array, offset: number, choice: Choice): number {
    const { sampling } = choice;
    if (sampling.temperature === 0 && isPlain(choice)) return argmax(logits, offset, this.vocab);
    this.adjust(logits, offset, choice);
    const best = argmax(this.adjusted, 0, this.vocab);
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
    const { adjusted, candidate, mass, vocab } = this;
    let count = vocab;
    for (let i = 0; i < vocab; i++) candidate[i] = i;
    if (sampling.topK > 0 && sampling.topK < vocab) {
      count = this.selection.keepLargest(adjusted, candidate, count, max, sampling.topK);
    }
    let total = 0;
    for (let i = 0; i < count; i++) {
      const m = expNonPositive((adjusted[candidate[i]] - max) / sampling.temperature);
      mass[candidate[i]] = m;
      total += m;
    }
    if (sampling.topP < 1) {
      count = this.selection.keepMass(mass, candidate, count, sampling.topP * total);
      total = 0;
      for (let i = 0; i < count; i++) total += mass[candidate[i]];
    }
    if (sampling.minP > 0) {
      // The largest mass is exp(0) = 1, so min-p is a plain threshold.
      let kept = 0;
      total = 0;
      for (let i = 0; i < count; i++) {
        const token = candidate[i];
        if (mass[token] < sampling.minP) continue;
        candidate[kept++] = token;
        total += mass[token];
      }
      count = kept;
    }
    return this.walk(count, uniformAt(sampling.seed, index) * total);
  }

  /** The candidate in whose share of the total mass the point lies. */
  private walk(count: number, point: number): number {
    const { candidate, mass } = this;
    let passed = 0;
    let last = candidate[0];
    for (let i = 0; i < count; i++) {
      const m = mass[candidate[i]];
      if (m === 0) continue;
      last = candidate[i];
      passed += m;
      if (point < passed) return last;
    }
    return last; // the point fell on the rounding of the last sum
  }
}

function isPlain({ sampling, history, masked }: Choice): boolean {
  return history === null && sampling.biasToken.length === 0 && masked.length === 0;
}

/**
 * Partial selection among candidates by descending key, ties to the lower id, without sorting them all: keys fall into buckets, whole buckets are kept until the
 * one where the cut lies, and only that one is sorted. Kept candidates stay in ascending id.
 */
class Selection {
  private static readonly BUCKETS = 1024;
  private readonly bucketOf: Uint16Array;
  private readonly weight = new Float64Array(Selection.BUCKETS);

  constructor(vocab: number) {
    this.bucketOf = new Uint16Array(vocab);
  }

  /** Keeps the `wanted` largest by `key`; buckets are 1/16 wide below `max`, the last takes the rest. Returns how many are left. */
  keepLargest(key: Float64Array, candidate: Int32Array, count: number, max: number, wanted: number): number {
    const { bucketOf, weight } = this;
    weight.fill(0);
    for (let i = 0; i < count; i++) {
      const bucket = Math.min(Math.floor((max - key[candidate[i]]) * 16), Selection.BUCKETS - 1);
      bucketOf[candidate[i]] = bucket;
      weight[bucket]++;
    }
    return this.cut(key, candidate, count, wanted, null);
  }

  /** Keeps the smallest set whose mass reaches `wanted`, largest first. Buckets are eighths of a binary order of magnitude of the mass. */
  keepMass(mass: Float64Array, candidate: Int32Array, count: number, wanted: number): number {
    const { bucketOf, weight } = this;
    weight.fill(0);
    for (let i = 0; i < count; i++) {
      const bucket = massBucket(mass[candidate[i]]);
      bucketOf[candidate[i]] = bucket;
      weight[bucket] += mass[candidate[i]];
    }
    return this.cut(mass, candidate, count, wanted, mass);
  }

  /** Keeps whole buckets, then members of the boundary bucket in order, until their weight (1 each when `unit` is null) reaches `wanted`. At least one stays. */
  private cut(key: Float64Array, candidate: Int32Array, count: number, wanted: number, unit: Float64Array | null): number {
    const { bucketOf, weight } = this;
    let boundary = 0;
    let kept = 0;
    while (boundary < Selection.BUCKETS - 1 && kept + weight[boundary] < wanted) kept += weight[boundary++];
    const members: number[] = [];
    for (let i = 0; i < count; i++) if (bucketOf[candidate[i]] === boundary) members.push(candidate[i]);
    members.sort((a, b) => key[b] - key[a] || a - b);
    let taken = 0;
    while (taken < members.length && (kept < wanted || (boundary === 0 && taken === 0))) {
      kept += unit === null ? 1 : unit[members[taken]];
      taken++;
    }
    const chosen = new Set(taken === members.length ? [] : members.slice(0, taken));
    let out = 0;
    for (let i = 0; i < count; i++) {
      const token = candidate[i];
      const bucket = bucketOf[token];
      if (bucket < boundary || (bucket === boundary && (taken === members.length || chosen.has(token)))) candidate[out++] = token;
    }
    return out;
  }
}

const massBits = new Float64Array(1);
const massWords = new Uint32Array(massBits.buffer);

/** Larger masses in lower buckets; a mass in (0, 1] has 8 buckets per power of two, and zero and the tiniest share the last. */
function massBucket(mass: number): number {
  massBits[0] = mass;
  const eighths = (0x3ff00000 - massWords[1]) >> 17; // exponent and the three leading mantissa bits, from 1 downwards
  return Math.min(Math.max(eighths, 0), 1023);
}
