import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { ApiClient } from '../src/api/client.ts';
import { compareObservations } from '../src/exact/difference.ts';
import type { Observation } from '../src/exact/observation.ts';
import { sliceObservation } from '../src/exact/observation.ts';
import { makeQuestions } from '../src/exact/questions.ts';
import { type ExactReport, formatExactReport } from '../src/exact/report.ts';
import { notCompared } from '../src/exact/scenarios.ts';

function observation(ids: number[]): Observation {
  return {
    ids,
    tokens: ids.map((id) => `<${id}>`),
    logprobs: ids.map((id) => -id / 7),
    alternatives: ids.map((id) => JSON.stringify([[`<${id}>`, -id / 7]])),
  };
}

const ids = fc.array(fc.nat(4095), { minLength: 1, maxLength: 40 });

describe('comparing observations', () => {
  it('finds equal ones equal, and a part equal to that part', () => {
    fc.assert(
      fc.property(ids, fc.nat(40), (list, cut) => {
        expect(compareObservations(observation(list), observation(list))).toMatchObject({
          sameTokens: true,
          sameLogprobs: true,
          firstAt: null,
        });
        const from = Math.min(cut, list.length);
        expect(
          compareObservations(sliceObservation(observation(list), from, list.length), observation(list.slice(from))).firstAt,
        ).toBeNull();
      }),
    );
  });

  it('notices one last bit of one log-probability', () => {
    fc.assert(
      fc.property(ids, fc.nat(), (list, place) => {
        const at = place % list.length;
        const actual = observation(list);
        const bits = new Float64Array([actual.logprobs[at]]);
        new BigUint64Array(bits.buffer)[0] ^= 1n;
        actual.logprobs[at] = bits[0];
        expect(compareObservations(observation(list), actual)).toMatchObject({ sameTokens: true, sameLogprobs: false, firstAt: at });
      }),
    );
  });

  it('notices an alternative that differs, another token, and a missing one', () => {
    const actual = observation([5, 6, 7]);
    actual.alternatives[2] = '[]';
    expect(compareObservations(observation([5, 6, 7]), actual)).toMatchObject({ sameTokens: true, sameLogprobs: false, firstAt: 2 });
    expect(compareObservations(observation([5, 6, 7]), observation([5, 9, 7]))).toMatchObject({
      sameTokens: false,
      sameLogprobs: false,
      firstAt: 1,
    });
    expect(compareObservations(observation([5, 6, 7]), observation([5, 6]))).toMatchObject({
      sameTokens: false,
      sameLogprobs: false,
      firstAt: 2,
    });
  });

  it('tells how far log-probabilities are apart, as long as the tokens are the same', () => {
    const actual = observation([7, 14, 21]);
    actual.logprobs[1] += 0.25;
    actual.logprobs[2] += 0.5;
    actual.ids![2] = 22;
    expect(compareObservations(observation([7, 14, 21]), actual).largestLogprobDifference).toBe(0.25);
    expect(compareObservations(observation([7]), observation([8])).largestLogprobDifference).toBeNull();
  });
});

describe('questions', () => {
  it('have no ids that the model does not have', async () => {
    const client = { post: async () => ({ body: { tokens: [1] } }) } as unknown as ApiClient;
    const options = { model: 'm', vocab: 300, count: 1, others: 4, maxTokens: 2, temperature: 0, topLogprobs: 1 };
    const { others } = await makeQuestions(client, options, new AbortController().signal);
    expect(Math.max(...others.flatMap(({ prompt }) => prompt as number[]))).toBeLessThan(300);
  });
});

describe('the report', () => {
  const report: ExactReport = {
    format: 'switchyard-bench-exact',
    version: 1,
    createdAt: '',
    command: '',
    label: null,
    machine: { cpu: '', cpus: 1, memoryBytes: 1, platform: '', node: '' },
    target: { url: 'http://here', model: 'm', switchyard: true, numericClass: 'bf16+node-limit-2' },
    promised: false,
    questions: 1,
    tokensPerQuestion: 2,
    others: 0,
    temperature: 0,
    results: [],
    incomplete: null,
    exact: true,
  };

  it('of a lossy class says that the promise is off, even where everything is equal', () => {
    expect(formatExactReport(report)).toContain('The promise is off: class bf16+node-limit-2 is lossy');
    expect(formatExactReport({ ...report, promised: true })).not.toContain('promise');
  });

  it('does not call a difference 0 where the first tokens differ already', () => {
    const row = { ...notCompared('repeated', ''), questions: 1, tokens: 1, firstDifference: { question: 0, token: 0 }, unsupported: null };
    expect(formatExactReport({ ...report, results: [row] })).toMatch(/^repeated +0\/1 +0\/1 +- +differs from question 0, token 0$/m);
  });

  it('that is not complete says so, and why', () => {
    expect(formatExactReport({ ...report, incomplete: 'nothing answers', exact: false })).toMatch(
      /but not everything was: nothing answers\n$/,
    );
  });
});
