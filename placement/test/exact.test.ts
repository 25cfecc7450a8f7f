import { afterAll, describe, expect, it } from 'vitest';
import {
  exflow,
  type FanOutLayer,
  FanOutSearch,
  fanOutProgram,
  glpkSolver,
  HighsSession,
  highsSolver,
  type LinearProgram,
  labelChain,
  moetunerClusters,
  moetunerDevices,
  type RoutingTrace,
  rlt,
  scoreChain,
  seededRandom,
  solveChain,
  subsetFlow,
  type Transitions,
} from '../src/index.ts';
import { nearestPlaces } from '../src/solve/node-places.ts';
import { assignToBins } from '../src/solve/transportation.ts';
import { solveFixedHomes } from './fixed-homes.ts';

function toyTransitions(seed: number, layers: number, experts: number): Transitions {
  const random = seededRandom(seed);
  const counts = Array.from({ length: layers - 1 }, () =>
    Float64Array.from({ length: experts * experts }, () => Math.floor(100 * random.next() ** 3)),
  );
  return { layers, experts, counts, loads: new Float64Array(layers * experts).fill(1) };
}

const total = (w: Transitions) => w.counts.reduce((sum, c) => sum + c.reduce((a, b) => a + b, 0), 0);
const limits = { timeLimitMs: 100_000 };
/** The second solver need not finish; where it does it must agree. */
const glpkLimits = { timeLimitMs: 20_000 };

// One solver thread for the many small programs of this file.
const session = new HighsSession();
afterAll(() => session.close());
async function prove(program: LinearProgram) {
  await session.load(program);
  return session.run(limits.timeLimitMs, { mip_rel_gap: 0, mip_abs_gap: 1e-6 });
}

describe('the chain model on toy instances', () => {
  it('the default search finds the optimum that the integer program proves, 25 of 25, and both solvers agree', async () => {
    const glpk = glpkSolver();
    let finished = 0;
    for (let seed = 1; seed <= 25; seed++) {
      const w = toyTransitions(seed, 3, seed % 3 === 0 ? 4 : 6);
      const parts = seed % 2 === 0 ? 2 : w.experts / 2;
      const { program, decode } = subsetFlow(w, parts);
      const proven = await prove(program);
      expect(proven.status).toBe('optimal');
      const second = await glpk.solve(program, glpkLimits);
      if (second.status === 'optimal') {
        expect(second.objective).toBeCloseTo(proven.objective!, 6);
        finished++;
      }
      expect(scoreChain(w, decode(proven.values!), parts).local * total(w)).toBeCloseTo(proven.objective!, 6);
      const found = solveChain(w, parts, { seed: 1, peakMeanMax: Infinity, starts: 4, kicks: 60, stop: () => false, onImproved: () => {} });
      expect(found.local * total(w)).toBeCloseTo(proven.objective!, 6);
    }
    expect(finished).toBeGreaterThanOrEqual(10);
  }, 240_000);

  it('all formulations have one optimum', async () => {
    const w = toyTransitions(7, 3, 4);
    const strong = await prove(subsetFlow(w, 2).program);
    const linearised = await prove(rlt(w, 2).program);
    const published = await prove(exflow(w, 2).program);
    expect(linearised.objective).toBeCloseTo(strong.objective!, 6);
    expect(total(w) - published.objective!).toBeCloseTo(strong.objective!, 6);
    expect((await glpkSolver().solve(exflow(w, 2).program, limits)).objective).toBeCloseTo(published.objective!, 6);
  });

  it('recovers scrambled labels exactly', () => {
    const random = seededRandom(3);
    const devices = 5;
    const names = Array.from({ length: 4 }, () => Array.from({ length: devices }, (_, i) => i).sort(() => random.next() - 0.5));
    const flow = names.slice(1).map((next, l) => {
      const f = new Float64Array(devices * devices);
      for (let d = 0; d < devices; d++) f[names[l].indexOf(d) * devices + next.indexOf(d)] = 10;
      return f;
    });
    const labels = labelChain(flow, devices);
    flow.forEach((f, l) => {
      let kept = 0;
      for (let c = 0; c < devices; c++)
        for (let d = 0; d < devices; d++) if (labels[l * devices + c] === labels[(l + 1) * devices + d]) kept += f[c * devices + d];
      expect(kept).toBe(10 * devices);
    });
  });

  it("solves MoETuner's two stages", async () => {
    const stage1 = moetunerClusters([5, 4, 3, 2, 1, 1], 2);
    const clusters = await prove(stage1.program);
    expect(clusters.objective).toBeCloseTo(0, 6);
    const stage2 = moetunerDevices([[0, 9, 1, 0]], 2, [0, 1, 1, 0]);
    const devices = await prove(stage2.program);
    expect(devices.objective).toBeCloseTo(0, 6);
    const decoded = [...stage2.decode(devices.values!)];
    expect(decoded[0]).toBe(decoded[3]);
    expect((await glpkSolver().solve(stage2.program, limits)).objective).toBeCloseTo(0, 6);
  });
});

describe('the fan-out model on toy instances', () => {
  function toyLayer(seed: number): FanOutLayer {
    const random = seededRandom(seed);
    const nodes = 2 + random.below(2);
    const experts = 5 + random.below(2);
    const extra = random.below(3);
    const slots = Array.from({ length: nodes }, (_, n) => Math.ceil(experts / nodes) + (n < extra ? 1 : 0));
    const tokens = Array.from({ length: 14 }, () => {
      const chosen = new Set<number>();
      while (chosen.size < 3) chosen.add(random.below(experts));
      return { experts: [...chosen], home: random.below(nodes), weight: 1 + random.below(4) };
    });
    return { experts, slots, tokens };
  }

  /** The default search on one layer with its homes held fixed: every token is a sequence whose weight is its count. */
  async function search(layer: FanOutLayer): Promise<number> {
    const { tokens } = layer;
    const trace: RoutingTrace = {
      model: 'toy',
      moeLayers: [0],
      experts: layer.experts,
      topK: 3,
      tokens: tokens.length,
      ids: Uint16Array.from(tokens.flatMap((t) => t.experts)),
      sequenceOf: Uint32Array.from(tokens, (_, t) => t),
      generated: new Uint8Array(tokens.length),
      sequences: tokens.map((_, s) => ({ sequence: s, domain: null, tokens: 1 })),
    };
    const share = new Float64Array(layer.slots.length).fill(1 / layer.slots.length);
    const found = new FanOutSearch(
      trace,
      Int32Array.from(tokens, (t) => t.home),
      {
        slots: Int32Array.from(layer.slots),
        balance: { share, tolerance: 1 },
        prices: { peakPrice: 0, share, linkPrice: null, visitPrice: 1, remoteRowPrice: 0 },
        peakMeanMax: Infinity,
        sequenceWeight: Float64Array.from(tokens, (t) => t.weight),
        stop: () => false,
        pause: () => Promise.resolve(),
        candidatesMax: 1000,
        onImproved: () => {},
      },
    );
    return solveFixedHomes(found, seededRandom(1), 40);
  }

  it('the steps of the search find the optimum that the integer program proves, 25 of 25', async () => {
    const glpk = glpkSolver();
    let finished = 0;
    for (let seed = 1; seed <= 25; seed++) {
      const layer = toyLayer(seed);
      const { program } = fanOutProgram(layer);
      const proven = await prove(program);
      expect(proven.status).toBe('optimal');
      const second = seed <= 12 ? await glpk.solve(program, glpkLimits) : null;
      if (second?.status === 'optimal') {
        expect(second.objective).toBeCloseTo(proven.objective!, 6);
        finished++;
      }
      expect({ seed, visits: await search(layer) }).toEqual({ seed, visits: Math.round(proven.objective!) });
    }
    expect(finished).toBeGreaterThanOrEqual(10);
  }, 240_000);

  it('stops when asked', async () => {
    const abort = new AbortController();
    const hard = subsetFlow(toyTransitions(1, 8, 8), 2);
    const solving = highsSolver.solve(hard.program, { timeLimitMs: 60_000, signal: abort.signal });
    abort.abort();
    expect((await solving).status).toBe('aborted');
  });
});

it('clusters that visit one another take neighbouring places', () => {
  // Two racks: 0 and 1, 2 and 3. Clusters 0 and 2 visit one another, as do 1 and 3.
  const price = Float64Array.from({ length: 16 }, (_, i) => (Math.floor(i / 4) >> 1 === (i % 4) >> 1 ? 1 : 10));
  const visits = Float64Array.from({ length: 16 }, (_, i) => (Math.abs(Math.floor(i / 4) - (i % 4)) === 2 ? 5 : 1));
  const at = nearestPlaces(visits, price, 4, () => true);
  expect([at[0] >> 1, at[1] >> 1]).toEqual([at[2] >> 1, at[3] >> 1]);
  expect(nearestPlaces(visits, price, 4, () => false)).toEqual([0, 1, 2, 3]);
});

it('transportation is exact', () => {
  const random = seededRandom(9);
  for (let round = 0; round < 50; round++) {
    const items = 5;
    const cost = Float64Array.from({ length: items * 3 }, () => random.below(20) - 5);
    const capacity = [2, 1, 2 + random.below(2)];
    let best = Infinity;
    for (let code = 0; code < 3 ** items; code++) {
      const bins = Array.from({ length: items }, (_, i) => Math.floor(code / 3 ** i) % 3);
      if (capacity.some((c, b) => bins.filter((x) => x === b).length > c)) continue;
      best = Math.min(
        best,
        bins.reduce((sum, b, i) => sum + cost[i * 3 + b], 0),
      );
    }
    const found = assignToBins(cost, capacity);
    expect(found.reduce((sum, b, i) => sum + cost[i * 3 + b], 0)).toBe(best);
  }
});

it('transportation is exact, and ends, where some costs are much larger than others', () => {
  const random = seededRandom(45);
  for (let round = 0; round < 300; round++) {
    const size = 2 + random.below(4);
    const cost = Float64Array.from({ length: size * size }, () => (random.next() < 0.5 ? 1e12 : -10 * random.below(30)));
    let best = Infinity;
    const complete = (item: number, taken: number, sum: number) => {
      if (item === size) best = Math.min(best, sum);
      else for (let b = 0; b < size; b++) if (((taken >>> b) & 1) === 0) complete(item + 1, taken | (1 << b), sum + cost[item * size + b]);
    };
    complete(0, 0, 0);
    const found = assignToBins(cost, new Int32Array(size).fill(1));
    expect(found.reduce((sum, b, i) => sum + cost[i * size + b], 0)).toBe(best);
  }
});
