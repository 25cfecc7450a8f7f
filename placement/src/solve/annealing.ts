import { popcount } from '../cluster/node-set.ts';
import type { Random } from '../random.ts';
import { BestSeen } from './best-seen.ts';
import type { FanOutSearch } from './fan-out-search.ts';

export interface AnnealingOptions {
  /** Proposed changes, all layers together: effort is counted, never timed, so that the same seed gives the same plan. */
  proposals: number;
  /** Remote nodes per token and layer that the plan may have: the price of a remote visit moves until it is so, and what is left is home share. Infinity: prices stay. */
  remoteNodesMax: number;
  random: Random;
  onProgress: () => void;
}

/** Temperatures at the start and the end, in parts of what one expert's memory is worth. */
const [hottest, coldest] = [0.12, 0.0005];

/** Temperatures; homes are chosen anew at each, and prices moved. */
const steps = 50;

/** A full node's price for one expert more, in parts of what memory is worth: the counts stay within a few of the limit, and may pass it for a while. */
const crowding = 0.004;

/** Share of proposals that add or drop a replica, and that move one; the rest are exchanges of two experts' nodes. */
const [flips, moves] = [0.4, 0.65];

/** Rounds of exact steps after the last temperature, while the price of peaks finds its place again. */
const settlingRounds = 12;

/**
 * Anneals a search's placement and lets it settle, which leaves nothing worse than it found: of the start and what each round of settling ends with, the best by merit
 * stays. A few proposals from a hot start lose more than exact steps win back, and peaks come down to their limit over several rounds. With `remoteNodesMax` visits
 * are to be spent, which merit knows nothing of: then only an end by `stop` goes back to the start.
 */
export async function annealed(search: FanOutSearch, options: AnnealingOptions): Promise<void> {
  const { stop } = search.options;
  const seen = new BestSeen(search);
  await anneal(search, options);
  // Half-annealed is worse than before: hot plans are loose, and over their memory.
  if (!stop()) {
    search.fitMemory();
    if (options.remoteNodesMax !== Infinity) return search.converge(settlingRounds, 1e-5);
    for (let round = 0; round < settlingRounds && !stop(); round++) {
      await search.converge(1, 1e-5);
      seen.look();
    }
  }
  seen.resume();
}

/**
 * Simulated annealing of a search's placement. Where descents by exact steps end, many small changes would each lose and only together gain; a temperature lets them
 * happen. Memory is priced, not forbidden: adding and dropping replicas are single steps, over all layers at once, and the counts end at the budget or within a few of
 * it, which `fitMemory` mends. The prices of memory, peaks and visits all move towards the point where their limits are just met. Ended by `stop`, it leaves what no
 * budget holds.
 */
async function anneal(search: FanOutSearch, options: AnnealingOptions): Promise<void> {
  const { layers, prices } = search;
  const { slots, stop, pause, peakMeanMax } = search.options;
  const { random, remoteNodesMax } = options;
  const nodes = slots.length;
  const { experts } = layers[0];
  const weight = layers.reduce((sum, layer) => sum + layer.tokens(), 0);
  const copies = slots.reduce((a, b) => a + b, 0);
  const worth = search.objective() / copies;
  const memoryPrice = new Float64Array(nodes).fill(1.4 * worth);
  const crowdingPrice = crowding * worth;
  const over = search.free.map((free) => -free);
  const memoryCost = (before: number, after: number): number => {
    let cost = 0;
    for (let bits = before ^ after; bits !== 0; bits &= bits - 1) {
      const n = 31 - Math.clz32(bits & -bits);
      cost += (after >>> n) & 1 ? memoryPrice[n] + crowdingPrice * (2 * over[n] + 1) : -memoryPrice[n] - crowdingPrice * (2 * over[n] - 1);
    }
    return cost;
  };
  const count = (before: number, after: number): void => {
    for (let bits = before ^ after; bits !== 0; bits &= bits - 1) {
      const n = 31 - Math.clz32(bits & -bits);
      over[n] += (after >>> n) & 1 ? 1 : -1;
    }
  };
  const perStep = Math.ceil(options.proposals / steps);
  for (let step = 0; step < steps && !stop(); step++) {
    const temperature = worth * hottest * (coldest / hottest) ** (step / (steps - 1));
    for (let i = 0; i < perStep; i++) {
      if ((i & 1023) === 1023 && stop()) return;
      const layer = layers[random.below(layers.length)];
      const { maskOf } = layer;
      const e = random.below(experts);
      const mask = maskOf[e];
      const kind = random.next();
      // Metropolis: a loss is taken with probability exp(-loss / temperature); drawn first, it rules most proposals out unseen.
      const lossMax = -temperature * Math.log(random.next() + 1e-300);
      if (kind >= moves) {
        const f = random.below(experts);
        const a = anyOf(mask & ~maskOf[f], random);
        const b = anyOf(maskOf[f] & ~mask, random);
        if (a === 0 || b === 0) continue;
        const [maskE, maskF] = [(mask & ~a) | b, (maskOf[f] & ~b) | a];
        if (layer.gainCeiling(e, maskE) + layer.gainCeiling(f, maskF) < -lossMax) continue;
        if (layer.gainOf(e, maskE, f, maskF) >= -lossMax) layer.apply(e, maskE, f, maskF);
        continue;
      }
      const bit = 1 << random.below(nodes);
      let next = mask ^ bit;
      if (kind >= flips) {
        const from = anyOf(mask, random);
        if ((mask & bit) !== 0) continue;
        next = (mask & ~from) | bit;
      } else if (popcount(next) === 0) continue;
      const memory = memoryCost(mask, next);
      if (layer.gainCeiling(e, next) - memory < -lossMax) continue;
      if (layer.gainOf(e, next, -1, 0) - memory < -lossMax) continue;
      layer.apply(e, next, -1, 0);
      count(mask, next);
    }
    for (let n = 0; n < nodes; n++) memoryPrice[n] = Math.max(0, memoryPrice[n] + 0.04 * worth * Math.max(-5, Math.min(5, over[n] / 5)));
    if (peakMeanMax !== Infinity) prices.peakPrice = moved(prices.peakPrice, (search.peakMean() - 1) / Math.max(peakMeanMax - 1, 0.01));
    if (remoteNodesMax !== Infinity) prices.visitPrice = moved(prices.visitPrice, (search.remoteNodes() / weight / remoteNodesMax) ** 8);
    for (const layer of layers) layer.reprice();
    await search.reassignHomes();
    options.onProgress();
    await pause();
  }
  for (let n = 0; n < nodes; n++) search.free[n] = -over[n];
}

/** A price that moves by a part of how far what it is for is off. */
function moved(price: number, excess: number): number {
  return Math.min(20, Math.max(0.02, price * Math.min(1.3, Math.max(0.75, excess ** 0.5))));
}

/** One of a set's bits, or 0 of none. */
function anyOf(set: number, random: Random): number {
  let left = set;
  for (let skip = set === 0 ? 0 : random.below(popcount(set)); skip > 0; skip--) left &= left - 1;
  return left & -left;
}
