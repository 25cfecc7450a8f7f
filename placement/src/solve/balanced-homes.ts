import { HomeLoads } from './home-loads.ts';

/** Each home's tokens stay within `tolerance` of its fair share. */
export interface HomeBalance {
  /** Fair share of each home, (homes), summing to 1. */
  share: Float64Array;
  /** 0.05: within 5%. */
  tolerance: number;
}

/** Rounds of prices. */
const ROUNDS = 100;

/**
 * Sends sequences to homes at least cost with every home's tokens near its share: Lagrange prices per token find the shape, then moves and swaps repair and improve.
 *
 * @param cost   (sequences, homes), any unit
 * @param tokens (sequences)
 * @returns home of each sequence, (sequences)
 */
export function assignHomes(cost: Float64Array, tokens: ArrayLike<number>, balance: HomeBalance): Int32Array {
  const loads = new HomeLoads(cost, tokens, balance);
  findPrices(loads, cost, tokens, balance);
  loads.moveIntoLimits();
  loads.improve();
  return loads.homeOf;
}

/** Leaves every sequence where cost and price together are least, at prices that bring the loads within their limits or close to it. */
function findPrices(loads: HomeLoads, cost: Float64Array, tokens: ArrayLike<number>, { share }: HomeBalance): void {
  const homes = share.length;
  const price = new Float64Array(homes);
  const spread = largestSpread(cost, tokens, homes);
  for (let round = 0; round < ROUNDS; round++) {
    loads.load.fill(0);
    for (let s = 0; s < tokens.length; s++) {
      let best = 0;
      for (let h = 1; h < homes; h++)
        if (cost[s * homes + h] + price[h] * tokens[s] < cost[s * homes + best] + price[best] * tokens[s]) best = h;
      loads.homeOf[s] = best;
      loads.load[best] += tokens[s];
    }
    if (loads.within) return;
    const step = spread / (1 + round / 4);
    for (let h = 0; h < homes; h++) price[h] += step * (loads.load[h] / loads.total - share[h]);
  }
}

/** The most that a token's cost differs from home to home. */
function largestSpread(cost: Float64Array, tokens: ArrayLike<number>, homes: number): number {
  let spread = 0;
  for (let s = 0; s < tokens.length; s++) {
    if (tokens[s] === 0) continue;
    const own = cost.subarray(s * homes, (s + 1) * homes);
    spread = Math.max(spread, (Math.max(...own) - Math.min(...own)) / tokens[s]);
  }
  return spread;
}
