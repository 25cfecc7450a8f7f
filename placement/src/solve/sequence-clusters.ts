import type { Random } from '../random.ts';
import { NO_EXPERT, type RoutingTrace } from '../trace/routing-trace.ts';
import { assignHomes, type HomeBalance } from './balanced-homes.ts';

/**
 * How often each sequence chose each expert, as a share of its tokens. Few sequences choose most experts of a large model, so only what they chose is listed: never more
 * than their tokens have choices, where a table of all sequences and experts would be gigabytes.
 */
export interface SequenceUsage {
  /** Experts of all layers, (layers x experts). */
  width: number;
  /** Sequence s chose expertOf[start[s]..start[s + 1]), ascending, expert e of layer l being l x experts + e, (sequences + 1). */
  start: Float64Array;
  /** (choices that differ) */
  expertOf: Uint32Array;
  shareOf: Float32Array;
}

export function sequenceUsage(trace: RoutingTrace): SequenceUsage {
  const layers = trace.moeLayers.length;
  const width = layers * trace.experts;
  const most = trace.sequences.reduce((sum, { tokens }) => sum + Math.min(width, tokens * layers * trace.topK), 0);
  const expertOf = new Uint32Array(most);
  const shareOf = new Float32Array(most);
  const start = new Float64Array(trace.sequences.length + 1);
  const shares = new Float32Array(width); // of one sequence; zero between sequences
  let end = 0;
  for (let s = 0, t = 0; s < trace.sequences.length; s++) {
    const share = 1 / trace.sequences[s].tokens;
    for (; t < trace.tokens && trace.sequenceOf[t] === s; t++)
      for (let l = 0; l < layers; l++)
        for (let k = 0; k < trace.topK; k++) {
          const e = trace.ids[(t * layers + l) * trace.topK + k];
          if (e === NO_EXPERT) continue;
          const expert = l * trace.experts + e;
          if (shares[expert] === 0) expertOf[end++] = expert;
          shares[expert] += share;
        }
    expertOf.subarray(start[s], end).sort();
    for (let i = start[s]; i < end; i++) {
      shareOf[i] = shares[expertOf[i]];
      shares[expertOf[i]] = 0;
    }
    start[s + 1] = end;
  }
  return { width, start, expertOf: expertOf.subarray(0, end), shareOf: shareOf.subarray(0, end) };
}

/** Rounds of k-means. */
const rounds = 8;

/**
 * Balanced k-means of the sequences by what they use: the start of co-clustering. Centres begin at far-apart sequences (k-means++).
 *
 * @param options.stop asked between rounds: true ends it with the homes of the last one; the first is always made
 * @param options.pause awaited between rounds, so that whoever shares the thread can run (and abort)
 */
export async function clusterSequences(
  usage: SequenceUsage,
  tokens: ArrayLike<number>,
  balance: HomeBalance,
  random: Random,
  { stop, pause }: { stop: () => boolean; pause: () => Promise<void> },
): Promise<Int32Array> {
  const homes = balance.share.length;
  const sequences = tokens.length;
  const { width, start, expertOf, shareOf } = usage;
  const centres = new Float32Array(homes * width);
  const norms = new Float64Array(homes); // squared, of the centres
  const measure = (h: number) => {
    norms[h] = centres.subarray(h * width, (h + 1) * width).reduce((sum, c) => sum + c * c, 0);
  };
  // What a sequence never chose is its centre's part alone, and that is in the norm.
  const distance = (s: number, h: number) => {
    let sum = norms[h];
    for (let i = start[s]; i < start[s + 1]; i++) sum += shareOf[i] * (shareOf[i] - 2 * centres[h * width + expertOf[i]]);
    return Math.max(0, sum);
  };
  const nearest = new Float64Array(sequences).fill(Infinity);
  for (let h = 0; h < homes; h++) {
    const total = nearest.reduce((a, d, s) => a + (d === Infinity ? 1 : d) * tokens[s], 0);
    let left = random.next() * total;
    let pick = sequences - 1;
    for (let s = 0; s < sequences; s++) {
      left -= (nearest[s] === Infinity ? 1 : nearest[s]) * tokens[s];
      if (left <= 0) {
        pick = s;
        break;
      }
    }
    for (let i = start[pick]; i < start[pick + 1]; i++) centres[h * width + expertOf[i]] = shareOf[i];
    measure(h);
    for (let s = 0; s < sequences; s++) nearest[s] = Math.min(nearest[s], distance(s, h));
  }
  const cost = new Float64Array(sequences * homes);
  let homeOf: Int32Array = new Int32Array(sequences);
  for (let round = 0; round < rounds && (round === 0 || !stop()); round++) {
    for (let s = 0; s < sequences; s++) for (let h = 0; h < homes; h++) cost[s * homes + h] = tokens[s] * distance(s, h);
    homeOf = assignHomes(cost, tokens, balance);
    centres.fill(0);
    const weight = new Float64Array(homes);
    for (let s = 0; s < sequences; s++) {
      const h = homeOf[s];
      weight[h] += tokens[s];
      for (let i = start[s]; i < start[s + 1]; i++) centres[h * width + expertOf[i]] += tokens[s] * shareOf[i];
    }
    for (let h = 0; h < homes; h++) {
      if (weight[h] > 0) for (let i = h * width; i < (h + 1) * width; i++) centres[i] /= weight[h];
      measure(h);
    }
    await pause();
  }
  return homeOf;
}
