import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ops } from '../src/index.ts';
import { deviceOptions, nameOf, normals, oneSequence, random, Workbench } from './fixture.ts';
import type { RouteRule } from './reference.ts';
import * as reference from './reference.ts';

const plain: RouteRule = {
  score: 'softmax',
  k: 3,
  groups: 1,
  topGroups: 1,
  groupScore: 'max',
  maskZero: false,
  renorm: false,
  renormEps: 0,
  scale: 1,
  jitterEps: 0,
};
const rules: { title: string; experts: number; biased: boolean; rule: RouteRule }[] = [
  { title: 'softmax over all (OLMoE)', experts: 64, biased: false, rule: { ...plain, k: 8 } },
  { title: 'softmax, renormalised (Mixtral, Qwen3)', experts: 128, biased: false, rule: { ...plain, k: 8, renorm: true } },
  { title: 'softmax over the chosen (GPT-OSS, Granite)', experts: 32, biased: false, rule: { ...plain, score: 'softmax_chosen', k: 4 } },
  {
    title: 'softmax with groups by maximum, masked by 0 (DeepSeek-V2)',
    experts: 160,
    biased: false,
    rule: { ...plain, k: 6, groups: 8, topGroups: 3, maskZero: true, scale: 16 },
  },
  {
    title: 'sigmoid with bias and groups by top two (DeepSeek-V3)',
    experts: 256,
    biased: true,
    rule: { ...plain, score: 'sigmoid', k: 8, groups: 8, topGroups: 4, groupScore: 'top_two', renorm: true, renormEps: 1e-20, scale: 2.5 },
  },
  { title: 'softmax with selection bias (ERNIE)', experts: 48, biased: true, rule: { ...plain, k: 6, renorm: true, renormEps: 1e-12 } },
  { title: 'all experts of one group left', experts: 24, biased: false, rule: { ...plain, k: 6, groups: 4, topGroups: 1 } },
  { title: 'sparse mixer (Phi-3.5)', experts: 16, biased: false, rule: { ...plain, score: 'sparse_mixer', k: 2, jitterEps: 0.01 } },
  { title: 'two-level gates (SMILE)', experts: 32, biased: false, rule: { ...plain, score: 'factored', k: 1, groups: 4 } },
  {
    title: 'two-level gates, 3 of 8 groups and 2 of 16 slots',
    experts: 128,
    biased: false,
    rule: { ...plain, score: 'factored', k: 6, groups: 8, topGroups: 3, renorm: true, scale: 2.5 },
  },
  { title: 'top one', experts: 5, biased: false, rule: { ...plain, k: 1 } },
];

describe.each(deviceOptions.map((options) => ({ name: nameOf(options), options })))('routers on $name', ({ options }) => {
  let bench: Workbench;
  beforeAll(() => {
    bench = new Workbench(options);
  });
  afterAll(() => bench.close());

  function run(logits: Float32Array, rows: number, bias: Float32Array | null, rule: RouteRule) {
    const width = logits.length / rows;
    const experts = rule.score === 'factored' ? rule.groups * (width - rule.groups) : width;
    const ids = bench.buffer(rows, rule.k);
    const weights = bench.buffer(rows, rule.k);
    const selectBias = bias && bench.buffer(1, experts, bias);
    const batch = oneSequence(rows);
    bench.run([ops.route({ logits: bench.buffer(rows, width, logits), ids, weights, selectBias, experts, ...rule })], rows, batch);
    return { ids: ids.i32, weights: weights.f32, batch };
  }

  test.each(rules)('$title', ({ experts, biased, rule }) => {
    const next = random(experts);
    const rows = 70; // Enough to be shared between threads.
    const width = rule.score === 'factored' ? rule.groups + experts / rule.groups : experts;
    const logits = normals(next, rows * width, 1.5);
    const bias = biased ? normals(next, experts, 0.2) : null;
    const got = run(logits, rows, bias, rule);
    for (let t = 0; t < rows; t++) {
      const want = reference.route(Array.from(logits.subarray(t * width, (t + 1) * width)), bias && Array.from(bias), rule);
      expect(Array.from(got.ids.subarray(t * rule.k, (t + 1) * rule.k)), `row ${t}`).toEqual(want.ids);
      want.weights.forEach((w, i) => {
        expect(Math.abs(got.weights[t * rule.k + i]! - w)).toBeLessThanOrEqual(
          3e-6 * Math.max(1e-3, Math.abs(w)) * Math.max(1, rule.scale),
        );
      });
    }
  });

  test('ties go to the lower id, among experts and among groups', () => {
    const tied = Float32Array.of(1, 2, 2, 0, 2, 2, 2, 0);
    expect(Array.from(run(tied, 1, null, plain).ids)).toEqual([1, 2, 4]);
    const groups: RouteRule = { ...plain, k: 2, groups: 4, topGroups: 1 };
    expect(Array.from(run(tied, 1, null, groups).ids)).toEqual([1, 0]);
    const zeros = new Float32Array(40);
    expect(Array.from(run(zeros, 1, null, { ...plain, k: 5 }).ids)).toEqual([0, 1, 2, 3, 4]);
    const factored: RouteRule = { ...plain, score: 'factored', k: 4, groups: 3, topGroups: 2 };
    expect(Array.from(run(Float32Array.of(1, 1, 1, 0, 2, 2, 2), 1, null, factored).ids)).toEqual([1, 2, 5, 6]);
    expect(Array.from(run(Float32Array.of(-0, 0, -0), 1, null, { ...plain, score: 'softmax_chosen', k: 2 }).ids)).toEqual([0, 1]);
  });

  test('a masked expert loses to an allowed one below zero, unless it is masked by 0', () => {
    // DeepSeek-V3 with large negative biases in the groups that are kept: -inf and 0 choose differently.
    const logits = Float32Array.of(3, 3, 3, 3, -1, -1, -1, -1);
    const bias = Float32Array.of(-2, -2, -2, -2, -9, -9, -9, -9);
    const rule: RouteRule = { ...plain, score: 'sigmoid', k: 2, groups: 2, topGroups: 1, groupScore: 'top_two' };
    expect(Array.from(run(logits, 1, bias, rule).ids)).toEqual([0, 1]);
    expect(Array.from(run(logits, 1, bias, { ...rule, maskZero: true }).ids)).toEqual([4, 5]);
  });

  test('an expert that is masked by 0 and chosen for want of others weighs nothing', () => {
    const rule: RouteRule = { ...plain, k: 2, groups: 2, topGroups: 1, maskZero: true };
    const { ids, weights } = run(Float32Array.of(-1, -1, -1, 0, -150, -150), 1, null, rule);
    expect(Array.from(ids)).toEqual([3, 0]);
    expect(weights[0]).toBeCloseTo(1 / (1 + 3 * Math.exp(-1)), 6);
    expect(weights[1]).toBe(0);
  });

  test('weights never come from the biased score', () => {
    const { ids, weights } = run(Float32Array.of(0, 0, 0), 1, Float32Array.of(0, 5, 0), { ...plain, score: 'sigmoid', k: 1 });
    expect(ids[0]).toBe(1);
    expect(weights[0]).toBe(0.5);
  });

  test.each([1, 2, 3, 4])('within %d nodes of a plan with replicas', (limit) => {
    const next = random(limit);
    const [rows, experts] = [40, 24];
    const nodes = Array.from({ length: experts }, (_, e) => (1 << (e % 4)) | (next() < 0.3 ? 1 << Math.floor(next() * 4) : 0));
    const of = bench.ints(nodes);
    for (const rule of [
      { ...plain, k: 4, renorm: true },
      { ...plain, k: 4, score: 'softmax_chosen' },
      { ...plain, k: 4, score: 'sigmoid', renorm: true, scale: 2.5 },
    ] as const) {
      const z = normals(next, rows * experts, 1.5);
      const ids = bench.buffer(rows, rule.k);
      const weights = bench.buffer(rows, rule.k);
      const logits = bench.buffer(rows, experts, z);
      bench.run([ops.route({ logits, ids, weights, selectBias: null, nodes: { of, limit }, experts, ...rule })], rows);
      let changed = 0;
      for (let t = 0; t < rows; t++) {
        const row = Array.from(z.subarray(t * experts, (t + 1) * experts));
        const want = reference.routeWithinNodes(row, nodes, limit, rule);
        const got = Array.from(ids.i32.subarray(t * rule.k, (t + 1) * rule.k));
        expect(got, `row ${t}`).toEqual(want.ids);
        want.weights.forEach((w, i) => {
          expect(weights.f32[t * rule.k + i]).toBeCloseTo(w, 5);
        });
        if (got.join() !== reference.route(row, null, rule).ids.join()) changed++;
      }
      expect(changed > 0).toBe(limit < 4);
    }
  });

  test('a NaN marks its row, which chooses nothing; other rows do not notice', () => {
    const logits = normals(random(3), 9 * 16);
    const broken = logits.slice();
    broken[5 * 16 + 3] = Number.NaN;
    broken[7 * 16] = Number.NaN;
    const others = [
      { ...plain, score: 'sparse_mixer', k: 2, jitterEps: 0.01 },
      { ...plain, score: 'factored', k: 2, groups: 8, topGroups: 2 },
    ] as const;
    for (const rule of [plain, ...others]) {
      const want = run(logits, 9, null, rule);
      const got = run(broken, 9, null, rule);
      expect(want.batch.failedRows).toBe(0);
      expect(got.batch.failedRows).toBe(2);
      expect(Array.from(got.batch.rowStatus.subarray(0, 9))).toEqual([0, 0, 0, 0, 0, 1, 0, 1, 0]);
      for (let at = 0; at < 9 * rule.k; at++) {
        const row = Math.floor(at / rule.k);
        const gone = row === 5 || row === 7;
        expect(got.ids[at]).toBe(gone ? -1 : want.ids[at]);
        expect(got.weights[at]).toBe(gone ? 0 : want.weights[at]);
      }
    }
  });
});
