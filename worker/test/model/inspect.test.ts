import path from 'node:path';
import { expect, test } from 'vitest';
import { fitInto, inspectModel, usualSteps } from '../../src/model/inspect.ts';
import { goldenDir } from '../checkpoint/checkpoint-files.ts';
import { tinyOptions, withModel } from './loading.ts';

const bundled = path.join(goldenDir, '../../models/shunter-16m');

test('the bundled model is what its README says', () => {
  const found = inspectModel(bundled);
  expect(found).toMatchObject({
    modelType: 'qwen3_moe',
    layers: 6,
    experts: 32,
    topK: 4,
    hidden: 256,
    vocab: 4096,
    maxContext: 1024,
    numericClass: 'bf16',
  });
  expect(found.parameters.total / 1e6).toBeCloseTo(16.4, 1);
  expect(found.parameters.active / 1e6).toBeCloseTo(4.1, 1);
  // Tied: the head adds nothing to the file.
  expect(found.storedBytes.head).toBe(0);
  expect(Object.values(found.storedBytes).reduce((a, b) => a + b, 0)).toBe(2 * found.parameters.total);
  expect(found.residentBytes).toMatchObject({
    expert: 3 * 96 * 256 * 2,
    allExperts: 6 * 32 * 3 * 96 * 256 * 2,
    kvPerToken: 6 * 2 * 64 * 2 * 2,
  });
});

test('what it says of memory is what loading takes', async () => {
  const dir = path.join(goldenDir, 'deepseek_v2');
  const { residentBytes } = inspectModel(dir, { activations: 'f32', experts: 'int8', dense: 'stored', sum: 'exact' });
  const kvTokens = 4096;
  const resident = await withModel(
    tinyOptions(dir, {
      hosted: [[0, 1, 2], [5]],
      numericClass: { activations: 'f32', experts: 'int8', dense: 'stored', sum: 'exact' },
      maxContext: 0,
      kvBlocks: kvTokens / 16,
      maxBatchRows: 512,
      ...usualSteps,
    }),
    (model) => model.residentBytes,
  );
  const { common, steps, expert, kvPerToken } = residentBytes;
  expect(resident).toBe(common + steps + 4 * expert + kvTokens * kvPerToken);
});

test('quantised parts are counted as stored and as held', () => {
  const fp8 = inspectModel(path.join(goldenDir, 'deepseek_v3_fp8'));
  expect(fp8.expertDType).toBe('f8_e4m3');
  // 2 layers of 16 experts: 3 matrices of 48 x 64, each with one scale.
  expect(fp8.storedBytes.experts).toBe(2 * 16 * 3 * (48 * 64 + 4));
  expect(fp8.residentBytes.allExperts).toBe(2 * 16 * 3 * 48 * 64 * 2);
  const mxfp4 = inspectModel(path.join(goldenDir, 'gpt_oss_mxfp4'));
  expect(mxfp4.expertDType).toBe('mxfp4');
  // 3 layers of 8 experts: 3 matrices of 64 x 64, half a byte and a 32nd of a scale each, and 192 biases in bf16.
  expect(mxfp4.storedBytes.experts).toBe(3 * 8 * (3 * 64 * 64 * (1 / 2 + 1 / 32) + 192 * 2));
  expect(mxfp4.residentBytes.allExperts).toBe(3 * 8 * (3 * 64 * 64 * 2 + 192 * 4));
});

test('fit: common parts on every worker, experts divided, the rest for KV', () => {
  expect(fitInto(1000, 400, 100, 20, 10)).toEqual({ memoryBytes: 1000, expertsPerWorker: 6, workersNeeded: 4, kvTokens: 10 });
  expect(fitInto(450, 400, 100, 20, 10)).toEqual({ memoryBytes: 450, expertsPerWorker: 0, workersNeeded: null, kvTokens: 0 });
  expect(fitInto(300, 400, 100, 20, 10)).toMatchObject({ expertsPerWorker: -1, workersNeeded: null });
  expect(fitInto(10_000, 400, 100, 20, 10)).toMatchObject({ expertsPerWorker: 20, workersNeeded: 1, kvTokens: 760 });
  // To the byte, and of a model without experts.
  expect(fitInto(500, 400, 100, 2, 10)).toMatchObject({ expertsPerWorker: 1, workersNeeded: 2, kvTokens: 0 });
  expect(fitInto(499, 400, 100, 2, 10)).toMatchObject({ expertsPerWorker: 0, workersNeeded: null });
  expect(fitInto(400, 400, 0, 0, 10)).toMatchObject({ expertsPerWorker: 0, workersNeeded: 1, kvTokens: 0 });
  expect(fitInto(455, 400, 0, 0, 10)).toMatchObject({ workersNeeded: 1, kvTokens: 5 });
  expect(fitInto(399, 400, 0, 0, 10)).toMatchObject({ expertsPerWorker: -1, workersNeeded: null, kvTokens: 0 });
});
