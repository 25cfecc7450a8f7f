import { readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ops } from '../src/index.ts';
import { deviceOptions, nameOf, Workbench } from './fixture.ts';

const folder = path.join(path.dirname(fileURLToPath(import.meta.url)), 'golden-routers');
const plain = { groupScore: 'max', maskZero: false, renorm: false, renormEps: 0, scale: 1, jitterEps: 0 } as const;

/** Sizes and rule of each file, as its `spec` has them. */
const routers = [
  {
    file: 'smile',
    gates: ['inter.weight', 'intra.weight'],
    rule: { ...plain, score: 'factored', experts: 12, k: 1, groups: 4, topGroups: 1 },
  },
  {
    file: 'deepseek_v2',
    gates: ['gate.weight'],
    rule: { ...plain, score: 'softmax', experts: 12, k: 2, groups: 4, topGroups: 2, scale: 1.5 },
  },
  {
    file: 'deepseek_v3',
    gates: ['gate.weight'],
    rule: { ...plain, score: 'sigmoid', experts: 12, k: 3, groups: 4, topGroups: 2, groupScore: 'top_two', renorm: true, scale: 2.5 },
  },
] as const;

/** The tensors of a safetensors file as f32, i32 where it says so. */
function read(file: string): Map<string, { shape: number[]; values: Float32Array; ints: Int32Array }> {
  const bytes = readFileSync(path.join(folder, `${file}.safetensors`));
  const length = Number(bytes.readBigUInt64LE(0));
  const header: Record<string, { shape: number[]; data_offsets: [number, number] }> = JSON.parse(bytes.toString('utf8', 8, 8 + length));
  return new Map(
    Object.entries(header)
      .filter(([name]) => name !== '__metadata__')
      .map(
        ([
          name,
          {
            shape,
            data_offsets: [begin, end],
          },
        ]) => {
          const { buffer } = Uint8Array.from(bytes.subarray(8 + length + begin, 8 + length + end));
          return [name, { shape, values: new Float32Array(buffer), ints: new Int32Array(buffer) }];
        },
      ),
  );
}

describe.each(deviceOptions.map((options) => ({ name: nameOf(options), options })))('golden routers on $name', ({ options }) => {
  let bench: Workbench;
  beforeAll(() => {
    bench = new Workbench(options);
  });
  afterAll(() => bench.close());

  test.each(routers)('$file', ({ file, gates, rule }) => {
    const tensors = read(file);
    const { shape, values } = tensors.get('x')!;
    const [rows, width] = shape as [number, number];
    const x = bench.buffer(rows, width, values);
    const weights = gates.map((name) => tensors.get(name)!);
    const logits = bench.buffer(
      rows,
      weights.reduce((sum, gate) => sum + gate.shape[0]!, 0),
    );
    let outOff = 0;
    const linears = weights.map(({ shape: [n, k], values }) => {
      const op = ops.linear({
        x,
        out: logits,
        weight: bench.weight('f32', values, n!, k!),
        bias: null,
        xOff: 0,
        outOff,
        mode: 'store',
        scale: 1,
        logitRows: false,
      });
      outOff += n!;
      return op;
    });
    const bias = tensors.get('e_score_correction_bias');
    const selectBias = bias === undefined ? null : bench.buffer(1, rule.experts, bias.values);
    const ids = bench.buffer(rows, rule.k);
    const routed = bench.buffer(rows, rule.k);
    bench.run([...linears, ops.route({ logits, ids, weights: routed, selectBias, ...rule })], rows);
    expect(Array.from(ids.i32)).toEqual(Array.from(tensors.get('experts')!.ints));
    tensors.get('weights')!.values.forEach((want, i) => {
      expect(Math.abs(routed.f32[i]! - want)).toBeLessThanOrEqual(1e-5 * want + 1e-7);
    });
  });
});
