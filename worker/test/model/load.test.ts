import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { SwitchyardError } from '@switchyard/proto';
import fc from 'fast-check';
import { afterAll, describe, expect, test } from 'vitest';
import { loadModel } from '../../src/model/load.ts';
import { wholeModel } from '../../src/verify/lockstep-cluster.ts';
import { SequenceRun } from '../../src/verify/sequence-run.ts';
import { goldenDir, readTensors, ScratchFolder, writeTensors } from '../checkpoint/checkpoint-files.ts';
import { logitsOf, someTokens, tinyOptions, withModel } from './loading.ts';

const scratch = new ScratchFolder();
afterAll(() => scratch.remove());
const golden = (folder: string) => path.join(goldenDir, folder);

test('progress rises to its total, which is known from the start', async () => {
  const seen: [number, number][] = [];
  const onProgress = (done: number, total: number) => seen.push([done, total]);
  await withModel(tinyOptions(golden('qwen3_moe'), { onProgress }), () => {});
  const total = seen[0]![1];
  expect(seen.length).toBeGreaterThan(1);
  expect(seen.every(([, t]) => t === total)).toBe(true);
  expect(seen.map(([done]) => done)).toEqual(seen.map(([done]) => done).toSorted((a, b) => a - b));
  expect(seen.at(-1)).toEqual([total, total]);
});

test('a file that the embedding is read from is told of once somebody writes to it, and not where another takes its name', async () => {
  const dir = scratch.copyOf('qwen3_moe');
  const file = path.join(dir, 'model.safetensors');
  const bytes = readFileSync(file);
  await withModel(tinyOptions(dir), (model) => {
    expect(model.writtenFile()).toBeNull();
    writeFileSync(`${file}.new`, bytes);
    renameSync(`${file}.new`, file);
    expect(model.writtenFile()).toBeNull();
  });
  await withModel(tinyOptions(dir), (model) => {
    expect(model.writtenFile()).toBeNull();
    writeFileSync(file, bytes, { flag: 'r+' });
    expect(model.writtenFile()).toBe(file);
  });
});

test('loading stops when it is told to', async () => {
  const abort = new AbortController();
  const options = tinyOptions(golden('qwen3_moe'), { signal: abort.signal, onProgress: () => abort.abort() });
  await expect(loadModel(options)).rejects.toMatchObject({ code: 'cancelled' });
});

test('a worker holds only the experts it hosts', async () => {
  const all = await withModel(tinyOptions(golden('mixtral')), (model) => model.residentBytes);
  const hosted = [[3, 1], [], [0, 1, 2, 3, 4, 5, 6, 7]];
  await withModel(tinyOptions(golden('mixtral'), { hosted }), (model) => {
    expect(model.runWhole).toBeNull();
    expect(model.moe.map(({ slotOf }) => [...slotOf])).toEqual([
      [-1, 0, -1, 1, -1, -1, -1, -1],
      Array(8).fill(-1),
      [0, 1, 2, 3, 4, 5, 6, 7],
    ]);
    expect(all - model.residentBytes).toBe(14 * 3 * 48 * 64 * 4);
  });
});

test('the grid of a layer does not depend on what is hosted, nor on the back end', async () => {
  const grids = (changes: Parameters<typeof tinyOptions>[1]) =>
    withModel(tinyOptions(golden('deepseek_v2'), changes), ({ moe }) => moe.map(({ grid }) => grid));
  const whole = await grids({});
  expect(await grids({ hosted: [[7], [2, 3]] })).toEqual(whole);
  expect(await grids({ device: { backend: 'cpu-ref', isa: 'auto', threads: 1, cpus: null } })).toEqual(whole);
});

describe('options out of range are refused by name', () => {
  const cases: [Parameters<typeof tinyOptions>[1], string, RegExp][] = [
    [{ hosted: [[0]] }, 'bad_plan', /hosted has 1 layers, the model 3/],
    [{ hosted: [[8], [], []] }, 'bad_plan', /names expert 8; experts are 0 to 7/],
    [{ maxBatchRows: 0 }, 'invalid_request', /maxBatchRows is 0/],
    [{ maxBatchRows: 65_537 }, 'invalid_request', /maxBatchRows is 65537, not an integer from 1 to 65536/],
    [{ maxSequences: 1.5 }, 'invalid_request', /maxSequences is 1\.5/],
    [{ maxLogitRows: 0 }, 'invalid_request', /maxLogitRows is 0/],
    [{ laneRows: [160, 161] }, 'invalid_request', /laneRows\[1\] is 161, not an integer from 1 to 160/],
    [{ kvBlocks: 2 ** 31 }, 'invalid_request', /kvBlocks is 2147483648/],
    [{ kvBlocks: 0, kvBytes: Number.NaN }, 'invalid_request', /kvBytes is NaN/],
    [{ kvBlocks: 0, kvBytes: 3 * 2 * 16 * 2 * 4 * 16 - 1 }, 'invalid_request', /kvBytes is 12287, less than the 12288 bytes/],
    [{ kvBlocks: 0, kvBytes: 100 }, 'invalid_request', /kvBytes is 100, less than the \d+ bytes that 16 tokens/],
  ];
  test.each(cases)('%j', async (changes, code, message) => {
    const failure = await loadModel(tinyOptions(golden('mixtral'), changes)).catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(SwitchyardError);
    expect(failure).toMatchObject({ code, message: expect.stringMatching(message) });
  });
});

test('KV memory decides the context, up to what the checkpoint allows', async () => {
  // 3 layers x (2 heads x 16 dims) x (k and v) x 4 bytes
  const perToken = 3 * 2 * 16 * 2 * 4;
  await withModel(tinyOptions(golden('mixtral'), { kvBlocks: 0, kvBytes: perToken * 16 * 5 + 1 }), ({ shape }) => {
    expect(shape).toMatchObject({ kvBytesPerToken: perToken, kvBlocks: 5, maxContext: 80 });
  });
  await withModel(tinyOptions(golden('mixtral'), { kvBlocks: 0, kvBytes: perToken * 16 }), ({ shape }) => {
    expect(shape).toMatchObject({ kvBlocks: 1, maxContext: 16 });
  });
  await withModel(tinyOptions(golden('mixtral'), { kvBlocks: 1, kvBytes: perToken * 16 * 5 }), ({ shape }) =>
    expect(shape.kvBlocks).toBe(1),
  );
  await withModel(tinyOptions(golden('mixtral'), { kvBlocks: 100 }), ({ shape }) => expect(shape.maxContext).toBe(512));
  await withModel(tinyOptions(golden('mixtral'), { maxContext: 33 }), (model) => {
    expect(model.shape.maxContext).toBe(33);
    expect(() => new SequenceRun(wholeModel(model), 34)).toThrow(/a sequence of 34 tokens, the limit is 33/);
  });
});

test('LongRoPE chooses its variant by how long a sequence may grow', async () => {
  await withModel(tinyOptions(golden('phimoe')), (model) =>
    expect([1, 64, 65, 500].map((n) => model.ropeVariant(n))).toEqual([0, 0, 1, 1]),
  );
  await withModel(tinyOptions(golden('gpt_oss')), (model) => expect(model.ropeVariant(500)).toBe(0));
});

test('weights that are not numbers are refused, or stop the request that meets them', async () => {
  const dir = scratch.copyOf('mixtral');
  const file = path.join(dir, 'model.safetensors');
  const tensors = readTensors(dir);
  const poison = (name: string) => {
    const tensor = tensors.get(name)!;
    const bytes = Uint8Array.from(tensor.bytes);
    new DataView(bytes.buffer).setFloat32(0, Number.NaN, true);
    writeTensors(file, new Map([...tensors, [name, { ...tensor, bytes }]]));
  };
  poison('model.layers.1.block_sparse_moe.experts.0.w2.weight');
  await expect(loadModel(tinyOptions(dir))).rejects.toMatchObject({
    code: 'bad_checkpoint',
    message: expect.stringMatching(/experts\.0\.w2\.weight" at offset \d+: expert 0 of layer 1 answers NaN/),
  });
  // The experts that read a norm are not to blame for it.
  poison('model.layers.1.post_attention_layernorm.weight');
  await expect(loadModel(tinyOptions(dir))).rejects.toMatchObject({
    code: 'bad_checkpoint',
    message: expect.stringMatching(/"model\.layers\.1\.post_attention_layernorm\.weight" at offset \d+: element 0 is NaN/),
    param: 'model.layers.1.post_attention_layernorm.weight',
  });
  poison('model.layers.2.block_sparse_moe.gate.weight');
  await withModel(tinyOptions(dir), (model) => {
    expect(() => logitsOf(wholeModel(model), someTokens(3, model.shape.vocab))).toThrow(/row 0: layer 2: a router score is not a number/);
  });
});

test('whatever happens to the bytes of a file, it is loaded or refused', async () => {
  const dir = scratch.copyOf('olmoe');
  const file = path.join(dir, 'model.safetensors');
  const original = readFileSync(file);
  const headerEnd = 8 + Number(original.readBigUInt64LE(0));
  const edits = fc.array(fc.tuple(fc.nat(headerEnd - 1), fc.nat(255)), { minLength: 1, maxLength: 4 });
  await fc.assert(
    fc.asyncProperty(edits, fc.nat(100), async (changes, cut) => {
      const bytes = Uint8Array.from(original);
      for (const [at, value] of changes) bytes[at] = value;
      writeFileSync(file, bytes.subarray(0, bytes.length - (cut > 80 ? cut : 0)));
      await withModel(tinyOptions(dir), (model) => logitsOf(wholeModel(model), someTokens(2, model.shape.vocab))).catch(
        (error: unknown) => {
          if (!(error instanceof SwitchyardError)) throw error;
          expect(error.code).toBe('bad_checkpoint');
        },
      );
    }),
    { numRuns: 150 },
  );
});
