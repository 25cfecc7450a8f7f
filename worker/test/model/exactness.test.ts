import path from 'node:path';
import { native } from '@switchyard/native';
import type { Plan } from '@switchyard/proto';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { LoadOptions, Model } from '../../src/model/contract.ts';
import { hostedBy } from '../../src/model/hosted-experts.ts';
import { loadModel } from '../../src/model/load.ts';
import { LockstepCluster, type Runner, wholeModel } from '../../src/verify/lockstep-cluster.ts';
import { goldenDir } from '../checkpoint/checkpoint-files.ts';
import { expectSameBits, logitsOf, logitsOfFolder, someTokens, tinyOptions, withModel } from './loading.ts';

// Within a numeric class a row's logits are one sequence of bits, whatever happens around it.

type Class = LoadOptions['numericClass'];
const classes: [string, Class][] = [
  ['f32', { activations: 'f32', experts: 'stored', dense: 'stored', sum: 'exact' }],
  ['bf16', { activations: 'bf16', experts: 'stored', dense: 'stored', sum: 'exact' }],
  ['bf16+int8-experts+int8-dense', { activations: 'bf16', experts: 'int8', dense: 'int8', sum: 'exact' }],
  ['bf16+int4-experts', { activations: 'bf16', experts: 'int4', dense: 'stored', sum: 'exact' }],
];
const families = ['qwen3_moe', 'deepseek_v3', 'gpt_oss', 'qwen2_moe'];
const tokens = someTokens(90, 320);

describe.each(classes)('class %s', (name, numericClass) => {
  test.each(families)('%s: back ends, instruction sets and threads agree', async (family) => {
    const dir = path.join(goldenDir, family);
    const logits = (device: LoadOptions['device']) => logitsOfFolder(tinyOptions(dir, { numericClass, device }), tokens);
    const oracle = await logits({ backend: 'cpu-ref', isa: 'auto', threads: 1, cpus: null });
    expect(oracle.every(Number.isFinite)).toBe(true);
    for (const isa of instructionSets())
      for (const threads of [1, 3]) expectSameBits(await logits({ backend: 'cpu', isa, threads, cpus: null }), oracle);
  });

  test('is named for what decides its bits', async () => {
    await withModel(tinyOptions(path.join(goldenDir, 'qwen3_moe'), { numericClass }), ({ shape }) => {
      expect(shape.numericClass.name).toBe(name);
      expect(shape.numericClass.wire).toBe(name === 'f32' ? 'f32' : 'bf16');
    });
  });
});

/** What this machine's kernels can be asked for. */
function instructionSets(): LoadOptions['device']['isa'][] {
  return (['auto', 'avx2', 'avx512'] as const).filter((isa) => {
    try {
      native.deviceClose(native.deviceOpen({ backend: 'cpu', isa, threads: 1, cpus: null }));
      return true;
    } catch {
      return false;
    }
  });
}

test('class ids of frames tell every class from every other', async () => {
  const ids = new Set<number>();
  for (const activations of ['f32', 'bf16'] as const)
    for (const experts of ['stored', 'int8', 'int4'] as const)
      for (const dense of ['stored', 'int8'] as const)
        for (const sum of ['exact', 'fast'] as const)
          await withModel(
            tinyOptions(path.join(goldenDir, 'mixtral'), { numericClass: { activations, experts, dense, sum } }),
            ({ shape }) => {
              expect(shape.numericClass.id).toBeGreaterThan(0);
              expect(shape.numericClass.id).toBeLessThan(256);
              ids.add(shape.numericClass.id);
            },
          );
  expect(ids.size).toBe(24);
});

test('auto takes bf16 unless the experts are stored in f32', async () => {
  const auto = { activations: 'auto', experts: 'stored', dense: 'stored', sum: 'exact' } as const;
  const nameOf = (folder: string) =>
    withModel(tinyOptions(path.join(goldenDir, folder), { numericClass: auto }), ({ shape }) => shape.numericClass.name);
  expect(await nameOf('mixtral')).toBe('f32');
  expect(await nameOf('qwen3_moe')).toBe('bf16');
  expect(await nameOf('gpt_oss_mxfp4')).toBe('bf16');
  expect(await nameOf('deepseek_v3_fp8')).toBe('bf16');
});

describe.each(['qwen3_moe', 'deepseek_v3', 'gpt_oss'])('%s in class bf16', (family) => {
  const dir = path.join(goldenDir, family);
  const numericClass: Class = { activations: 'bf16', experts: 'stored', dense: 'stored', sum: 'exact' };
  let alone: Model;
  let wanted: Float32Array;
  beforeAll(async () => {
    alone = await loadModel(tinyOptions(dir, { numericClass }));
    wanted = logitsOf(wholeModel(alone), tokens);
  });
  afterAll(() => alone.close());

  test('gives the same bits for every way to cut a prompt', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 8 }), (sizes) => {
        expectSameBits(logitsOf(wholeModel(alone), tokens, sizes), wanted);
      }),
      { numRuns: 15 },
    );
  });

  test('gives the same bits in company', () => {
    const lengths = fc.array(fc.integer({ min: 1, max: 30 }), { minLength: 2, maxLength: 4 });
    fc.assert(
      fc.property(lengths, fc.nat(1000), (prompts, seed) => {
        together(wholeModel(alone), prompts, seed).forEach((got, s) => {
          expectSameBits(got, lastRow(alone, someTokens(prompts[s]!, 320, seed + s)));
        });
      }),
      { numRuns: 15 },
    );
  });

  test('gives the same bits over every plan', async () => {
    const { moeLayers, experts } = alone.shape;
    const workers = fc.integer({ min: 2, max: 5 });
    const plans = workers.chain((count) =>
      fc.record({
        workers: fc.array(fc.record({ name: fc.constant('w'), node: fc.nat(2) }), { minLength: count, maxLength: count }),
        replicas: fc.array(
          fc.array(
            fc.uniqueArray(fc.nat(count - 1), { minLength: 1, maxLength: 3 }).map((ids) => ids.toSorted((a, b) => a - b)),
            fixed(experts),
          ),
          fixed(moeLayers.length),
        ),
      }),
    );
    await fc.assert(
      fc.asyncProperty(plans, async ({ workers: placed, replicas }) => {
        const plan: Plan = {
          format: 'switchyard-plan',
          version: 1,
          model: { type: family, moeLayers, experts },
          workers: placed,
          replicas,
          provenance: null,
        };
        const models = await Promise.all(placed.map((_, w) => loadModel(tinyOptions(dir, { numericClass, hosted: hostedBy(plan, w) }))));
        try {
          const cluster = new LockstepCluster(models, plan);
          for (const home of models.keys()) expectSameBits(logitsOf(cluster.runner(home), tokens, [50, 1, 39]), wanted);
        } finally {
          for (const model of models) model.close();
        }
      }),
      { numRuns: 6 },
    );
  });
});

function fixed(length: number) {
  return { minLength: length, maxLength: length };
}

/** Logits after the last token of a prompt by itself. */
function lastRow(model: Model, prompt: Int32Array): Float32Array {
  const { vocab } = model.shape;
  return logitsOf(wholeModel(model), prompt).slice((prompt.length - 1) * vocab);
}

/** Logits after the last token of each of several prompts in one batch. */
function together({ model, run }: Runner, lengths: readonly number[], seed: number): Float32Array[] {
  const { vocab } = model.shape;
  const batch = model.createBatch();
  let rows = 0;
  lengths.forEach((length, s) => {
    batch.token.set(someTokens(length, vocab, seed + s), rows);
    rows += length;
    batch.seqRow[s + 1] = rows;
    batch.logitRow[s] = rows - 1;
    for (let b = 0; b < 2; b++) batch.block[s * batch.maxBlocks + b] = 2 * s + 1 - b;
  });
  batch.rows = rows;
  batch.seqs = batch.logitRows = lengths.length;
  run(batch);
  return lengths.map((_, s) => model.logits.f32.slice(s * vocab, (s + 1) * vocab));
}
