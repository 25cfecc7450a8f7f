import { describe, expect, it } from 'vitest';
import { seededRandom } from '../src/random.ts';
import { assignHomes, type HomeBalance } from '../src/solve/balanced-homes.ts';

const evenly = (homes: number, tolerance: number): HomeBalance => ({ share: new Float64Array(homes).fill(1 / homes), tolerance });

function costOf(cost: Float64Array, homes: number, homeOf: ArrayLike<number>): number {
  let sum = 0;
  for (let s = 0; s < homeOf.length; s++) sum += cost[s * homes + homeOf[s]];
  return sum;
}

function loadsOf(tokens: ArrayLike<number>, homes: number, homeOf: ArrayLike<number>): number[] {
  const load = new Array<number>(homes).fill(0);
  for (let s = 0; s < homeOf.length; s++) load[homeOf[s]] += tokens[s];
  return load;
}

/** The least cost of all assignments whose loads are within their limits; Infinity where there is none. */
function optimum(cost: Float64Array, tokens: ArrayLike<number>, { share, tolerance }: HomeBalance): number {
  const homes = share.length;
  let total = 0;
  for (let s = 0; s < tokens.length; s++) total += tokens[s];
  let least = Number.POSITIVE_INFINITY;
  const homeOf = new Int32Array(tokens.length);
  for (let code = 0; code < homes ** tokens.length; code++) {
    for (let s = 0, rest = code; s < tokens.length; s++, rest = Math.floor(rest / homes)) homeOf[s] = rest % homes;
    const within = loadsOf(tokens, homes, homeOf).every((load, h) => Math.abs(load - share[h] * total) <= tolerance * share[h] * total);
    if (within) least = Math.min(least, costOf(cost, homes, homeOf));
  }
  return least;
}

describe('sequences sent to homes of equal load', () => {
  it('is within the limits wherever that is possible, and close to the cheapest that is', () => {
    const random = seededRandom(11);
    let possible = 0;
    let paid = 0;
    let least = 0;
    for (let instance = 0; instance < 60; instance++) {
      const homes = 2 + (instance % 2);
      const sequences = homes === 2 ? 10 : 7;
      const tokens = Array.from({ length: sequences }, () => 10 + Math.floor(random.next() * 20));
      const cost = Float64Array.from({ length: sequences * homes }, () => random.next() * 100);
      const balance = evenly(homes, 0.2);
      const best = optimum(cost, tokens, balance);
      if (best === Number.POSITIVE_INFINITY) continue;
      possible++;
      const homeOf = assignHomes(cost, tokens, balance);
      const fair = tokens.reduce((sum, t) => sum + t, 0) / homes;
      for (const load of loadsOf(tokens, homes, homeOf))
        expect(Math.abs(load - fair), `instance ${instance}`).toBeLessThanOrEqual(0.2 * fair + 1e-9);
      least += best;
      paid += costOf(cost, homes, homeOf);
    }
    expect(possible).toBeGreaterThan(50);
    expect(paid / least).toBeLessThan(1.05);
  });

  it('divides any number of sequences that are all alike', () => {
    // No price tells them apart: each has to be moved by itself.
    const homes = 8;
    const sequences = 16_000;
    const cost = Float64Array.from({ length: sequences * homes }, (_, i) => i % homes);
    const tokens = new Int32Array(sequences).fill(100);
    const homeOf = assignHomes(cost, tokens, evenly(homes, 0.05));
    const fair = (sequences * 100) / homes;
    for (const load of loadsOf(tokens, homes, homeOf)) expect(Math.abs(load / fair - 1)).toBeLessThanOrEqual(0.05 + 1e-9);
    // The cheap homes are full and the dear ones hold no more than they must: 5 % more at four of them, 5 % less at the others.
    expect(costOf(cost, homes, homeOf) / sequences).toBeCloseTo((1.05 * (0 + 1 + 2 + 3) + 0.95 * (4 + 5 + 6 + 7)) / homes, 2);
  });

  it('comes as near as it can where a sequence is longer than a share', () => {
    const tokens = [1000, 10, 10, 10];
    const cost = new Float64Array(8);
    const homeOf = assignHomes(cost, tokens, evenly(2, 0.05));
    expect(loadsOf(tokens, 2, homeOf).sort((a, b) => a - b)).toEqual([30, 1000]);
  });
});
