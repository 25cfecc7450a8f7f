import type { Sampling } from '@switchyard/proto';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { validateSubmit } from '../../src/engine/submit-validation.ts';
import { Sampler } from '../../src/sample/sampler.ts';
import { TokenHistory } from '../../src/sample/token-history.ts';
import { submitOf } from '../in-process-cluster.ts';

const vocab = 6;
const plain = submitOf([]).sampling;
const refusalOf = (sampling: Partial<Sampling>) => validateSubmit(submitOf([1, 2], { sampling: { ...plain, ...sampling } }), vocab, 100);

test.each<[Partial<Sampling>, string]>([
  [{ temperature: Number.POSITIVE_INFINITY }, 'temperature is Infinity; it must be in [0, 1e+100]'],
  [{ temperature: -1 }, 'temperature is -1; it must be in [0, 1e+100]'],
  [{ topP: 1.5 }, 'topP is 1.5; it must be in [0, 1]'],
  [{ minP: Number.NaN }, 'minP is NaN; it must be in [0, 1]'],
  [{ repetitionPenalty: 0 }, 'repetitionPenalty is 0; it must be in [1e-100, 1e+100]'],
  [{ repetitionPenalty: 1e-310 }, 'repetitionPenalty is 1e-310; it must be in [1e-100, 1e+100]'],
  [{ presencePenalty: Number.NaN }, 'presencePenalty is NaN; it must be in [-1e+100, 1e+100]'],
  [{ frequencyPenalty: -1.7e308 }, 'frequencyPenalty is -1.7e+308; it must be in [-1e+100, 1e+100]'],
  [{ biasToken: [0], biasValue: [Number.NEGATIVE_INFINITY] }, 'biasValue entry 0 is -Infinity; it must be in [-1e+100, 1e+100]'],
])('%o is refused with its limits', (sampling, message) => {
  expect(refusalOf(sampling)).toMatchObject({ code: 'invalid_request', message });
});

test('log-probabilities of a prompt that no message could hold are refused, not lost', () => {
  const prompt = new Int32Array(600_000);
  const asked = (logprobs: number) => validateSubmit(submitOf(prompt, { promptLogprobs: true, logprobs, maxTokens: 0 }), vocab, 1_000_000);
  expect(asked(2)).toBeNull();
  expect(asked(20)).toMatchObject({
    code: 'invalid_request',
    message: expect.stringContaining('prompt has 600000 tokens; with 20 log-probabilities'),
  });
});

test('whatever is not refused chooses a token, however extreme', () => {
  const extreme = fc.oneof(
    fc.double(),
    fc.constantFrom(0, 1, -1, 1e-310, 5e-324, 1e100, -1e100, 1e-100, Number.MAX_VALUE, -Number.MAX_VALUE),
  );
  const part = fc.oneof(fc.constantFrom(0, 1, 5e-324), fc.double({ min: 0, max: 1, noNaN: true }));
  const logit = fc.oneof(
    fc.constantFrom(0, 3.4e38, -3.4e38, 1e-45, Number.NEGATIVE_INFINITY),
    fc.float({ noNaN: true, noDefaultInfinity: true }),
  );
  let chosen = 0;
  fc.assert(
    fc.property(
      fc.array(logit, { minLength: vocab - 1, maxLength: vocab - 1 }),
      fc.record({
        temperature: extreme,
        topP: part,
        topK: fc.nat({ max: vocab + 1 }),
        minP: part,
        repetitionPenalty: extreme,
        presencePenalty: extreme,
        frequencyPenalty: extreme,
        seed: fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
        biasToken: fc.constant([0, 0]),
        biasValue: fc.tuple(extreme, extreme),
      }),
      (some, sampling) => {
        if (refusalOf(sampling) !== null) return;
        chosen++;
        const history = new TokenHistory([1, 2]);
        for (const token of [0, 0, 2, 3]) history.add(token);
        const token = new Sampler(vocab).choose(Float64Array.of(0, ...some), { sampling, history, masked: [], index: 3 });
        expect(token).toBeGreaterThanOrEqual(0);
        expect(token).toBeLessThan(vocab);
      },
    ),
    { numRuns: 20_000, seed: 5 },
  );
  expect(chosen).toBeGreaterThan(100);
});
