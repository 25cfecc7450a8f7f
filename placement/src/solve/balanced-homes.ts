/** Each home's tokens stay within `tolerance` of its fair share. */
export interface HomeBalance {
  /** Fair share of each home, (homes), summing to 1. */
  share: Float64Array;
  /** 0.05: within 5%. */
  tolerance: number;
}

/**
 * Sends sequences to homes at least cost with every home's tokens near its share: Lagrange prices per token find the shape, then moves and swaps repair and improve.
 *
 * @param cost   (sequences, homes), any unit
 * @param tokens (sequences)
 * @returns home of each sequence, (sequences)
 */
export function assignHomes(cost: Float64Array, tokens: ArrayLike<number>, balance: HomeBalance): Int32Array {
  const homes = balance.share.length;
  const sequences = tokens.length;
  let total = 0;
  for (let s = 0; s < sequences; s++) total += tokens[s];
  const high = balance.share.map((share) => share * total * (1 + balance.tolerance));
  const low = balance.share.map((share) => share * total * (1 - balance.tolerance));
  const price = new Float64Array(homes);
  const homeOf = new Int32Array(sequences);
  const load = new Float64Array(homes);
  let spread = 0;
  for (let s = 0; s < sequences; s++) {
    let least = Infinity;
    let most = -Infinity;
    for (let h = 0; h < homes; h++) {
      least = Math.min(least, cost[s * homes + h]);
      most = Math.max(most, cost[s * homes + h]);
    }
    if (tokens[s] > 0) spread = Math.max(spread, (most - least) / tokens[s]);
  }
  for (let round = 0; round < 300; round++) {
    load.fill(0);
    for (let s = 0; s < sequences; s++) {
      let best = 0;
      for (let h = 1; h < homes; h++)
        if (cost[s * homes + h] + price[h] * tokens[s] < cost[s * homes + best] + price[best] * tokens[s]) best = h;
      homeOf[s] = best;
      load[best] += tokens[s];
    }
    if (load.every((l, h) => l >= low[h] && l <= high[h])) break;
    const step = spread / (1 + round / 4);
    for (let h = 0; h < homes; h++) price[h] += step * (load[h] / total - balance.share[h]);
  }
  repair(cost, tokens, homeOf, load, low, high);
  return homeOf;
}

/** Moves and swaps: first towards the limits (any step that lowers the violation, cheapest per token), then to lower cost inside them. */
function repair(
  cost: Float64Array,
  tokens: ArrayLike<number>,
  homeOf: Int32Array,
  load: Float64Array,
  low: Float64Array,
  high: Float64Array,
): void {
  const homes = load.length;
  const sequences = homeOf.length;
  const violation = (h: number, change: number) => Math.max(0, load[h] + change - high[h], low[h] - load[h] - change);
  const apply = (s: number, h: number) => {
    load[homeOf[s]] -= tokens[s];
    load[h] += tokens[s];
    homeOf[s] = h;
  };
  for (let round = 0; round < 4 * sequences; round++) {
    let best = { rate: Infinity, s: -1, h: -1, swap: -1 };
    let bestCut = 0;
    for (let s = 0; s < sequences; s++) {
      const a = homeOf[s];
      for (let h = 0; h < homes; h++) {
        if (h === a || (violation(a, 0) === 0 && violation(h, 0) === 0)) continue;
        const cut = violation(a, 0) + violation(h, 0) - violation(a, -tokens[s]) - violation(h, tokens[s]);
        if (cut <= 1e-9) continue;
        const rate = (cost[s * homes + h] - cost[s * homes + a]) / cut;
        if (rate < best.rate) {
          best = { rate, s, h, swap: -1 };
          bestCut = cut;
        }
      }
    }
    if (best.s < 0) {
      // No single move helps: swap two sequences of different lengths.
      for (let s = 0; s < sequences; s++)
        for (let r = s + 1; r < sequences; r++) {
          const a = homeOf[s];
          const b = homeOf[r];
          if (a === b || (violation(a, 0) === 0 && violation(b, 0) === 0)) continue;
          const change = tokens[r] - tokens[s];
          const cut = violation(a, 0) + violation(b, 0) - violation(a, change) - violation(b, -change);
          if (cut <= 1e-9) continue;
          const rate = (cost[s * homes + b] + cost[r * homes + a] - cost[s * homes + a] - cost[r * homes + b]) / cut;
          if (rate < best.rate) {
            best = { rate, s, h: b, swap: r };
            bestCut = cut;
          }
        }
    }
    if (best.s < 0 || bestCut <= 0) break;
    const from = homeOf[best.s];
    apply(best.s, best.h);
    if (best.swap >= 0) apply(best.swap, from);
  }
  for (let improved = true, round = 0; improved && round < 20; round++) {
    improved = false;
    for (let s = 0; s < sequences; s++) {
      for (let h = 0; h < homes; h++) {
        const a = homeOf[s];
        if (h === a || cost[s * homes + h] >= cost[s * homes + a] - 1e-9) continue;
        if (violation(a, -tokens[s]) > violation(a, 0) || violation(h, tokens[s]) > violation(h, 0)) continue;
        apply(s, h);
        improved = true;
      }
    }
    if (sequences > 3000) continue; // swaps are quadratic; prices have done their work by then
    for (let s = 0; s < sequences; s++)
      for (let r = s + 1; r < sequences; r++) {
        const a = homeOf[s];
        const b = homeOf[r];
        if (a === b) continue;
        const gain = cost[s * homes + a] + cost[r * homes + b] - cost[s * homes + b] - cost[r * homes + a];
        if (gain <= 1e-9) continue;
        const change = tokens[r] - tokens[s];
        if (violation(a, change) > violation(a, 0) || violation(b, -change) > violation(b, 0)) continue;
        apply(s, b);
        apply(r, a);
        improved = true;
      }
  }
}
