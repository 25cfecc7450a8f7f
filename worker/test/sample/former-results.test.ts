import type { Sampling } from '@switchyard/proto';
import fc from 'fast-check';
import { describe, expect, test, vi } from 'vitest';
import { expNonPositive } from '../../src/sample/exponential.ts';
import { argmax, logSumExp, topTokens } from '../../src/sample/logits.ts';
import { uniformAt } from '../../src/sample/random.ts';
import { Sampler } from '../../src/sample/sampler.ts';
import { Selection } from '../../src/sample/selection.ts';
import { TokenHistory } from '../../src/sample/token-history.ts';
import * as former from './former-sampler.ts';

/** Rows as models have them, a bell and a few tokens that fit; of coarse values, so that ties lie at every cut; and of what can hardly be told apart. */
const row = fc
  .record({
    vocab: fc.constantFrom(7, 130, 1023, 1024, 3000, 9001),
    seed: fc.bigInt({ min: 0n, max: 1n << 60n }),
    width: fc.constantFrom(0.001, 0.5, 2.5, 30, 1e4),
    fitting: fc.nat({ max: 30 }),
    coarse: fc.constantFrom(0, 0.25, 4),
    impossible: fc.constantFrom(0, 0.3, 0.9),
  })
  .map(({ vocab, seed, width, fitting, coarse, impossible }) => {
    const logits = Float32Array.from({ length: vocab }, (_, i) => {
      const bell = Math.sqrt(-2 * Math.log(uniformAt(seed, i) + 1e-12)) * Math.cos(2 * Math.PI * uniformAt(seed + 1n, i));
      return i > 0 && uniformAt(seed + 2n, i) < impossible ? Number.NEGATIVE_INFINITY : width * bell;
    });
    for (let i = 0; i < fitting; i++) logits[Math.floor(uniformAt(seed + 3n, i) * vocab)] = width * (3 + 3 * uniformAt(seed + 4n, i));
    return coarse === 0 ? logits : logits.map((x) => Math.round(x / coarse) * coarse);
  });

/** The same, or what corrupt weights make of them: places of a few numbers that are none. */
const anyRow = fc
  .tuple(
    row,
    fc.array(
      fc.tuple(
        fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
        fc.constantFrom(Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY),
      ),
      { maxLength: 3 },
    ),
    fc.constantFrom(false, false, false, true),
  )
  .map(([logits, none, corrupt]) => {
    if (corrupt) for (const [place, value] of none) logits[Math.floor(place * logits.length)] = value;
    return logits;
  });

/** What it gives, or says. */
function attempt<T>(work: () => T): T | string {
  try {
    return work();
  } catch (error) {
    return String(error);
  }
}

const sampling = fc.record({
  temperature: fc.constantFrom(0, 1e-310, 0.1, 0.7, 1, 1.5, 8),
  topP: fc.constantFrom(0, 0.1, 0.8, 0.95, 0.999, 1 - 2 ** -52, 1, 1),
  topK: fc.constantFrom(0, 0, 1, 20, 64, 65, 500, 10_000),
  minP: fc.constantFrom(0, 0, 1e-30, 1e-9, 0.05, 0.5, 1),
  repetitionPenalty: fc.constantFrom(1, 1, 1.05),
  presencePenalty: fc.constantFrom(0, 0, 0.5),
  frequencyPenalty: fc.constantFrom(0, 0, 0.25),
  seed: fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
  bias: fc.constantFrom(0, 0, 0, -100, 5, 100),
});

describe('what is computed is what was computed before it was made fast, bit for bit', () => {
  test('choices', () => {
    const before = new Map<number, former.FormerSampler>();
    const after = new Map<number, Sampler>();
    fc.assert(
      fc.property(anyRow, sampling, fc.constantFrom('none', 'none', 'two', 'two', 'all'), (logits, { bias, ...wishes }, masking) => {
        const vocab = logits.length;
        if (!before.has(vocab)) before.set(vocab, new former.FormerSampler(vocab)).size && after.set(vocab, new Sampler(vocab));
        const chosen: Sampling = { ...wishes, biasToken: bias === 0 ? [] : [2, 5], biasValue: bias === 0 ? [] : [bias, bias / 2] };
        const penalised = wishes.repetitionPenalty !== 1 || wishes.presencePenalty !== 0 || wishes.frequencyPenalty !== 0;
        const history = penalised ? new TokenHistory([1, 2, 3, 3]) : null;
        history?.add(3);
        const masked = { none: [], two: [1, 4], all: [...logits.keys()] }[masking];
        for (let index = 0; index < 8; index++) {
          const choice = { sampling: chosen, history, masked, index };
          const now = attempt(() => after.get(vocab)!.choose(Float64Array.from(logits), choice));
          expect(now).toBe(attempt(() => before.get(vocab)!.choose(logits, 0, choice)));
        }
      }),
      { numRuns: 400 },
    );
  });

  test('choices where the tokens that might matter turn out to be too few', () => {
    const keepMass = vi.spyOn(Selection.prototype, 'keepMass');
    const vocab = 3000;
    const [before, after] = [new former.FormerSampler(vocab), new Sampler(vocab)];
    // What is left out is less than sums of thousands are exact to.
    const wishes = { temperature: 1, topP: 1 - 2 ** -52, topK: 0, minP: 0, repetitionPenalty: 1, presencePenalty: 0, frequencyPenalty: 0 };
    let fewer = 0;
    for (let seed = 0n; seed < 40n; seed++) {
      const logits = Float32Array.from({ length: vocab }, (_, i) => 3 * uniformAt(seed, i));
      const choice = { sampling: { ...wishes, seed, biasToken: [], biasValue: [] }, history: null, masked: [], index: 0 };
      keepMass.mockClear();
      expect(after.choose(Float64Array.from(logits), choice)).toBe(before.choose(logits, 0, choice));
      if (keepMass.mock.results[0].value === null) fewer++;
    }
    keepMass.mockRestore();
    expect(fewer).toBeGreaterThan(0);
    expect(fewer).toBeLessThan(40);
  });

  test('exponentials', () => {
    fc.assert(
      fc.property(fc.oneof(fc.double({ min: -50.1, max: 0, noNaN: true }), fc.double({ max: 0, noNaN: true })), (x) => {
        expect(expNonPositive(x)).toBe(former.expNonPositive(x));
      }),
      { numRuns: 5000 },
    );
    // Where one step of the table ends and the next begins.
    for (let k = -2400; k <= 0; k++)
      for (const x of [-1e-15, 0, 1e-15].map((d) => Math.min(0, ((k + 0.5) * Math.LN2) / 32 + d)))
        expect(expNonPositive(x)).toBe(former.expNonPositive(x));
  });

  test('log-probabilities and alternatives', () => {
    fc.assert(
      fc.property(anyRow, fc.constantFrom(0, 1, 20, 64), (logits, wanted) => {
        const now = Float64Array.from(logits);
        const total = attempt(() => logSumExp(now, now[argmax(now)]));
        expect(total).toBe(attempt(() => former.logSumExp(logits, 0, logits.length)));
        if (typeof total === 'number') expect(topTokens(now, wanted)).toEqual(former.topTokens(logits, 0, logits.length, wanted));
      }),
      { numRuns: 200 },
    );
  });
});
