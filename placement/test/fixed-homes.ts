import type { Random } from '../src/index.ts';
import type { FanOutSearch } from '../src/solve/fan-out-search.ts';

/**
 * The best found with homes as they are: descents from the best response and from kicked placements (a few experts change places at random). Steps of the search alone,
 * on problems so small that their optimum can be proven. Returns the objective.
 */
export async function solveFixedHomes(search: FanOutSearch, random: Random, kicks: number): Promise<number> {
  const descend = async () => {
    for (let last = Infinity; search.objective() < last - 1e-9; ) {
      last = search.objective();
      await search.improveLayers(20, 0);
      search.addReplicas();
      search.exchangeReplicas();
    }
  };
  search.placeSingles();
  await descend();
  let best = search.result();
  for (let kick = 0; kick < kicks; kick++) {
    search.load(best.masks);
    const free = search.free.slice();
    search.load(best.masks.map((masks) => kicked(masks, free, random)));
    await descend();
    if (search.objective() < best.objective - 1e-9) best = search.result();
  }
  return best.objective;
}

/** The same holders with some replicas dropped, a few experts exchanged or moved, and part of the free room filled at random: the next descent makes sense of it. */
function kicked(masks: Int32Array, free: Int32Array, random: Random): Int32Array {
  const next = masks.slice();
  const experts = masks.length;
  for (let e = 0; e < experts; e++) {
    for (let bits = next[e]; (bits & (bits - 1)) !== 0; bits &= bits - 1) {
      if (random.next() < 0.5) continue;
      const lowest = bits & -bits;
      next[e] ^= lowest;
      free[31 - Math.clz32(lowest)]++;
    }
  }
  for (let i = random.below(3); i >= 0; i--) {
    const e = random.below(experts);
    const f = random.below(experts);
    [next[e], next[f]] = [next[f], next[e]];
  }
  for (let n = 0; n < free.length; n++)
    for (let tries = free[n]; tries > 0; tries--) {
      const e = random.below(experts);
      if (random.next() < 0.3 || (next[e] >>> n) & 1) continue;
      if (random.next() < 0.3 && (next[e] & (next[e] - 1)) === 0) {
        free[31 - Math.clz32(next[e])]++;
        next[e] = 0;
      }
      next[e] |= 1 << n;
      free[n]--;
    }
  return next;
}
