import type { Random } from '../random.ts';
import { NO_EXPERT, type RoutingTrace } from '../trace/routing-trace.ts';
import { assignHomes, type HomeBalance } from './balanced-homes.ts';

/** How often each sequence chose each expert, as a share of its tokens: (sequences, layers x experts). */
export function sequenceUsage(trace: RoutingTrace): Float32Array {
  const layers = trace.moeLayers.length;
  const width = layers * trace.experts;
  const usage = new Float32Array(trace.sequences.length * width);
  for (let t = 0; t < trace.tokens; t++) {
    const s = trace.sequenceOf[t];
    const share = 1 / trace.sequences[s].tokens;
    for (let l = 0; l < layers; l++)
      for (let k = 0; k < trace.topK; k++) {
        const e = trace.ids[(t * layers + l) * trace.topK + k];
        if (e !== NO_EXPERT) usage[s * width + l * trace.experts + e] += share;
      }
  }
  return usage;
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
  usage: Float32Array,
  tokens: ArrayLike<number>,
  balance: HomeBalance,
  random: Random,
  { stop, pause }: { stop: () => boolean; pause: () => Promise<void> },
): Promise<Int32Array> {
  const homes = balance.share.length;
  const sequences = tokens.length;
  const width = usage.length / sequences;
  const distance = (s: number, centre: Float32Array, h: number) => {
    let sum = 0;
    for (let i = 0; i < width; i++) {
      const d = usage[s * width + i] - centre[h * width + i];
      sum += d * d;
    }
    return sum;
  };
  const centres = new Float32Array(homes * width);
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
    centres.set(usage.subarray(pick * width, (pick + 1) * width), h * width);
    for (let s = 0; s < sequences; s++) nearest[s] = Math.min(nearest[s], distance(s, centres, h));
  }
  const cost = new Float64Array(sequences * homes);
  let homeOf: Int32Array = new Int32Array(sequences);
  for (let round = 0; round < rounds && (round === 0 || !stop()); round++) {
    for (let s = 0; s < sequences; s++) for (let h = 0; h < homes; h++) cost[s * homes + h] = tokens[s] * distance(s, centres, h);
    homeOf = assignHomes(cost, tokens, balance);
    centres.fill(0);
    const weight = new Float64Array(homes);
    for (let s = 0; s < sequences; s++) {
      const h = homeOf[s];
      weight[h] += tokens[s];
      for (let i = 0; i < width; i++) centres[h * width + i] += tokens[s] * usage[s * width + i];
    }
    for (let h = 0; h < homes; h++) if (weight[h] > 0) for (let i = 0; i < width; i++) centres[h * width + i] /= weight[h];
    await pause();
  }
  return homeOf;
}
