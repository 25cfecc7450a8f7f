import type { Sampling } from '@switchyard/proto';
import fc from 'fast-check';
import { describe, expect, test, vi } from 'vitest';
import { expNonPositive } from '../../src/sample/exponential.ts';
import { argmax, logSumExp, topTokens } from '../../src/sample/logits.ts';
import { uniformAt } from '../../src/sample/random.ts';
import { type Choice, Sampler } from '../../src/sample/sampler.ts';
import { TokenHistory } from '../../src/sample/token-history.ts';

const greedy: Sampling = {
  temperature: 0,
  topP: 1,
  topK: 0,
  minP: 0,
  repetitionPenalty: 1,
  presencePenalty: 0,
  frequencyPenalty: 0,
  seed: 0n,
  biasToken: [],
  biasValue: [],
};

/** The same choice in the plainest way: sort everything, filter, walk. */
function chooseSlowly(logits: Float64Array, { sampling, history, masked, index }: Choice): number {
  const z = Array.from(logits);
  for (let i = 0; i < sampling.biasToken.length; i++) z[sampling.biasToken[i]] += sampling.biasValue[i];
  for (const [token, count] of history?.produced ?? []) {
    z[token] = z[token] > 0 ? z[token] / sampling.repetitionPenalty : z[token] * sampling.repetitionPenalty;
    if (count > 0) z[token] = z[token] - sampling.frequencyPenalty * count - sampling.presencePenalty;
  }
  for (let i = 0; i < masked.length; i++) z[masked[i]] = Number.NEGATIVE_INFINITY;
  let kept = z.map((_, id) => id).sort((a, b) => z[b] - z[a] || a - b);
  if (sampling.temperature === 0) return kept[0];
  if (sampling.topK > 0) kept = kept.slice(0, sampling.topK);
  const max = z[kept[0]];
  const mass = (id: number) => expNonPositive((z[id] - max) * (1 / sampling.temperature));
  const total = (ids: number[]) => [...ids].sort((a, b) => a - b).reduce((sum, id) => sum + mass(id), 0);
  if (sampling.topP < 1) {
    const wanted = sampling.topP * total(kept);
    let sum = 0;
    const cut = kept.findIndex((id) => {
      sum += mass(id);
      return sum >= wanted;
    });
    if (cut >= 0) kept = kept.slice(0, cut + 1);
  }
  kept = kept.filter((id) => mass(id) >= sampling.minP).sort((a, b) => a - b);
  const point = uniformAt(sampling.seed, index) * total(kept);
  let passed = 0;
  for (const id of kept) {
    passed += mass(id);
    if (point < passed) return id;
  }
  return kept.at(-1)!;
}

// Quarters, so that sums of masses are the only inexact numbers; of few values, so that ties are frequent, or of many. Any but the first two may be impossible.
const logitsArbitrary = fc
  .constantFrom(2, 60)
  .chain((max) => fc.array(fc.integer({ min: -max - 1, max }), { minLength: 2, maxLength: 80, size: 'max' }).map((xs) => ({ max, xs })))
  .map(({ max, xs }) => Float64Array.from(xs, (x, i) => (x < -max && i > 1 ? Number.NEGATIVE_INFINITY : x / 4)));

describe('Sampler', () => {
  test('greedy takes the largest logit, the lower id of equals', () => {
    const sampler = new Sampler(5);
    expect(sampler.choose(Float64Array.of(1, 3, 3, 2, 3), { sampling: greedy, history: null, masked: [], index: 0 })).toBe(1);
  });

  test.each([0, 1])('a row without numbers is an error that says so at temperature %d', (temperature) => {
    const sampler = new Sampler(3);
    const choose =
      (...row: number[]) =>
      () =>
        sampler.choose(Float64Array.from(row), { sampling: { ...greedy, temperature }, history: null, masked: [], index: 0 });
    const infinite = Number.NEGATIVE_INFINITY;
    expect(choose(infinite, infinite, infinite)).toThrow(/largest of 3 logits is -Infinity/);
    expect(choose(1, Number.POSITIVE_INFINITY, 2)).toThrow(/largest of 3 logits is Infinity/);
    expect(choose(1, Number.NaN, 2)).toThrow(/logit of token 1 is not a number/);
    expect(choose(Number.NaN, infinite, infinite)).toThrow(/logit of token 0 is not a number/);
  });

  test('chooses what sorting the whole vocabulary would choose', () => {
    fc.assert(
      fc.property(
        logitsArbitrary,
        fc.record({
          temperature: fc.constantFrom(0, 0.25, 1, 2),
          topP: fc.constantFrom(0, 0.1, 0.5, 0.9, 0.99, 1),
          topK: fc.integer({ min: 0, max: 90 }),
          minP: fc.constantFrom(0, 0.01, 0.3, 1),
          repetitionPenalty: fc.constantFrom(1, 1.5, 0.5),
          presencePenalty: fc.constantFrom(0, 0.5, -1),
          frequencyPenalty: fc.constantFrom(0, 0.25),
          seed: fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
          bias: fc.constantFrom(0, -100, 3, 100),
        }),
        fc.array(fc.nat(), { maxLength: 20 }),
        fc.boolean(),
        fc.nat({ max: 1000 }),
        (logits, { bias, ...params }, past, masked, index) => {
          const history = new TokenHistory([0]);
          for (const token of past) history.add(token % logits.length);
          const sampling: Sampling = { ...params, biasToken: bias === 0 ? [] : [1], biasValue: bias === 0 ? [] : [bias] };
          const choice: Choice = { sampling, history, masked: masked ? [0] : [], index };
          const sampler = new Sampler(logits.length);
          expect(sampler.choose(logits, choice)).toBe(chooseSlowly(logits, choice));
          expect(sampler.choose(logits, choice)).toBe(chooseSlowly(logits, choice));
        },
      ),
      { numRuns: 1500, seed: 4 },
    );
  });

  test.each([
    [{ topP: 0 }, [1]],
    [{ topP: 0.25 }, [1]],
    [{ topP: 0.26 }, [1, 2]],
    [{ topP: 0.5 }, [1, 2]],
    [{ topP: 0.75 }, [1, 2, 4]],
    [{ topP: 0.76 }, [1, 2, 4, 5]],
    [{ topK: 3 }, [1, 2, 4]],
    [{ topK: 4, topP: 0.5 }, [1, 2]],
    [{ minP: 1 }, [1, 2, 4, 5]],
    [{ minP: 1, topK: 1 }, [1]],
  ])('of tokens alike, and impossible ones, %o leaves the fewest that reach it, the lower ids', (limits, left) => {
    const sampler = new Sampler(6);
    const logits = Float64Array.from([0, 1, 1, 0, 1, 1], (possible) => (possible === 1 ? 2 : Number.NEGATIVE_INFINITY));
    const sampling = { ...greedy, temperature: 1, seed: 5n, ...limits };
    const chosen = Array.from({ length: 100 }, (_, index) => sampler.choose(logits, { sampling, history: null, masked: [], index }));
    expect([...new Set(chosen)].sort()).toEqual(left);
  });

  test('frequencies follow the softmax', () => {
    const logits = Float64Array.of(Math.log(1), Math.log(2), Math.log(5));
    const sampler = new Sampler(3);
    const counts = [0, 0, 0];
    for (let index = 0; index < 8000; index++) {
      counts[sampler.choose(logits, { sampling: { ...greedy, temperature: 1, seed: 99n }, history: null, masked: [], index })]++;
    }
    expect(counts[0] / 8000).toBeCloseTo(1 / 8, 1);
    expect(counts[1] / 8000).toBeCloseTo(2 / 8, 1);
    expect(counts[2] / 8000).toBeCloseTo(5 / 8, 1);
  });

  test.each([1e-310, 5e-324, 1e-300])('the smallest temperatures choose what is most likely: %d', (temperature) => {
    const logits = Float64Array.of(1, 3, 2, 3);
    for (const limits of [{}, { topP: 0.9 }, { topK: 2 }, { minP: 0.1 }]) {
      const choice: Choice = { sampling: { ...greedy, temperature, ...limits }, history: null, masked: [], index: 0 };
      const sampler = new Sampler(4);
      expect([1, 3]).toContain(sampler.choose(logits, choice));
      expect(sampler.choose(Float64Array.of(0, 0, 9, 0), choice)).toBe(2);
    }
  });

  test('works on a large vocabulary with one outlier', () => {
    const vocab = 200_000;
    const logits = Float64Array.from({ length: vocab }, (_, i) => Math.sin(i));
    logits[77] = 500;
    const sampler = new Sampler(vocab);
    const choice: Choice = { sampling: { ...greedy, temperature: 1, topK: 50, topP: 0.9, seed: 3n }, history: null, masked: [], index: 0 };
    expect(sampler.choose(logits, choice)).toBe(77);
  });
});

describe('logprobs', () => {
  test('exp agrees with the library within 2 ulp, and is 0 far below', () => {
    fc.assert(
      fc.property(fc.double({ min: -49.9, max: 0, noNaN: true }), (x) => {
        const expected = Math.exp(x);
        expect(Math.abs(expNonPositive(x) - expected)).toBeLessThanOrEqual(expected * 5e-16);
      }),
      { numRuns: 5000 },
    );
    expect(expNonPositive(0)).toBe(1);
    expect(expNonPositive(-51)).toBe(0);
    expect(expNonPositive(Number.NEGATIVE_INFINITY)).toBe(0);
  });

  test('probabilities of a row sum to one', () => {
    fc.assert(
      fc.property(logitsArbitrary, (logits) => {
        const total = logSumExp(logits, logits[argmax(logits)]);
        const sum = logits.reduce((s, l) => s + Math.exp(l - total), 0);
        expect(sum).toBeCloseTo(1, 12);
      }),
    );
  });

  test('top tokens are the first of the sorted row', () => {
    fc.assert(
      fc.property(logitsArbitrary, fc.integer({ min: 0, max: 90 }), (logits, wanted) => {
        const sorted = Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a] || a - b);
        expect(topTokens(logits, wanted)).toEqual(sorted.slice(0, wanted));
        expect(argmax(logits)).toBe(sorted[0]);
      }),
    );
  });

  const impossible = Number.NEGATIVE_INFINITY;
  test.each<[string, (i: number) => number]>([
    ['rises', (i) => i / 7],
    ['rises within a unit', (i) => i / 1e6],
    ['rises in steps', (i) => i >> 3],
    ['rises to a plateau', (i) => Math.min(i, 19_000)],
    ['rises from what is impossible', (i) => (i < 1000 ? impossible : i)],
    ['rises again and again', (i) => i % 5003],
    ['falls', (i) => -i],
    ['is flat', () => 3],
    ['is impossible but for one', (i) => (i === 9000 ? 0 : impossible)],
  ])('top tokens of a long row that %s are found with few insertions', (_, logit) => {
    const logits = Float64Array.from({ length: 20_000 }, (_, i) => logit(i));
    const sorted = Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a] || a - b);
    for (const wanted of [0, 1, 20, 64]) {
      const splice = vi.spyOn(Array.prototype, 'splice');
      const tokens = topTokens(logits, wanted);
      const insertions = splice.mock.calls.length;
      splice.mockRestore();
      expect(tokens).toEqual(sorted.slice(0, wanted));
      expect(insertions).toBeLessThan(5000);
    }
  });
});
