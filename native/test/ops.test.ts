import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { native, ops } from '../src/index.ts';
import { batchOf, deviceOptions, nameOf, normals, random, Workbench } from './fixture.ts';
import * as reference from './reference.ts';

const row = (values: Float32Array, t: number, ld: number, from: number, width: number): number[] =>
  Array.from(values.subarray(t * ld + from, t * ld + from + width));

/** fp32 against double: relative to the largest number of the row. */
function expectClose(got: readonly number[], want: readonly number[], relative = 4e-6): void {
  const size = Math.max(1e-3, ...want.map(Math.abs));
  expect(got.length).toBe(want.length);
  const wrong = got.findIndex((v, i) => !(Math.abs(v - want[i]!) <= relative * size));
  expect(wrong, `element ${wrong}: ${got[wrong]} instead of ${want[wrong]}`).toBe(-1);
}

describe.each(deviceOptions.map((options) => ({ name: nameOf(options), options })))('$name', ({ options }) => {
  let bench: Workbench;
  beforeAll(() => {
    bench = new Workbench(options);
  });
  afterAll(() => bench.close());

  test('describes itself', () => {
    const described = native.deviceDescribe(bench.device);
    expect(described.backend).toBe(options.backend);
    expect(described.threads).toBe(options.threads);
    expect(described.abi).toBe(native.abiVersion());
    expect(described.isa).toBe(options.backend === 'cpu-ref' ? 'scalar' : options.isa);
  });

  test('embed takes rows of the table, scaled', () => {
    const values = normals(random(1), 7 * 20);
    const table = native.tableCreate(bench.device, bench.source(values, 7, 20));
    const out = bench.buffer(3, 24);
    const batch = batchOf([{ position: 0, rows: 3 }]);
    batch.token.set([6, 0, 6]);
    bench.run([ops.embed({ out, table, width: 20, scale: 3 })], 3, batch);
    for (const [t, token] of [6, 0, 6].entries()) {
      const want = row(values, token, 20, 0, 20).map((v) => 3 * v);
      expectClose(row(out.f32, t, 24, 0, 20), want);
    }
    expect(row(out.f32, 0, 24, 20, 4)).toEqual([0, 0, 0, 0]);
  });

  test('embed works after its file was unmapped: the table keeps it', () => {
    const source = bench.source(normals(random(2), 40), 2, 20);
    const table = native.tableCreate(bench.device, source);
    native.fileUnmap(source.file);
    const out = bench.buffer(1, 20);
    bench.run([ops.embed({ out, table, width: 20, scale: 1 })], 1);
    expect(out.f32.some((v) => v !== 0)).toBe(true);
  });

  test.each(['rms', 'layer', 'l2'] as const)('norm %s, by groups, into other columns', (kind) => {
    const next = random(3);
    const [groups, width, rows] = [3, 21, 5];
    const x = bench.buffer(rows, 80, normals(next, rows * 80, 3));
    const out = bench.buffer(rows, 70);
    const weightValues = normals(next, groups * width);
    const biasValues = normals(next, groups * width);
    const weight = kind === 'l2' ? null : bench.buffer(1, groups * width, weightValues);
    const bias = kind === 'layer' ? bench.buffer(1, groups * width, biasValues) : null;
    const weightPlus = kind === 'rms' ? 1 : 0;
    const columns = { groups, width, xOff: 2, xStride: 25, outOff: 1, outStride: 22, weightStride: width, eps: 1e-5, weightPlus };
    bench.run([ops.norm({ x, out, weight, bias, kind, logitRows: false, ...columns })], rows);
    for (let t = 0; t < rows; t++)
      for (let g = 0; g < groups; g++) {
        const of = {
          kind,
          eps: 1e-5,
          weightPlus,
          weight: weight && row(weightValues, 0, 0, g * width, width),
          bias: bias && row(biasValues, 0, 0, g * width, width),
        };
        expectClose(row(out.f32, t, 70, 1 + g * 22, width), reference.norm(row(x.f32, t, 80, 2 + g * 25, width), of));
      }
  });

  test.each([
    ['half', 20],
    ['interleaved', 20],
    ['half', 64],
    ['interleaved', 64],
  ] as const)('rope %s of %i columns, at the sequence’s positions and variant', (layout, rot) => {
    const next = random(4);
    const [heads, stride, maxPos] = [3, rot + 6, 40];
    const sequences = [
      { position: 30, rows: 2, variant: 1 },
      { position: 0, rows: 3, variant: 0 },
    ];
    const angles = (variant: number, position: number) => Array.from({ length: rot / 2 }, (_, i) => (position * (variant + 1)) / 3 ** i);
    const table = bench.buffer(2 * maxPos, rot);
    for (let variant = 0; variant < 2; variant++)
      for (let position = 0; position < maxPos; position++) {
        const at = (variant * maxPos + position) * rot;
        table.f32.set(angles(variant, position).map(Math.cos), at);
        table.f32.set(angles(variant, position).map(Math.sin), at + rot / 2);
      }
    const before = normals(next, 5 * heads * stride);
    const x = bench.buffer(5, heads * stride, before);
    bench.run([ops.rope({ x, table, heads, off: 1, stride, rot, layout, maxPos })], 5, batchOf(sequences));
    const positions = [30, 31, 0, 1, 2];
    for (let t = 0; t < 5; t++)
      for (let h = 0; h < heads; h++) {
        const untouched = row(before, t, heads * stride, h * stride + 1, rot);
        const want = reference.rope(untouched, angles(t < 2 ? 1 : 0, positions[t]!), layout === 'interleaved');
        expectClose(row(x.f32, t, heads * stride, h * stride + 1, rot), want, 1e-5);
      }
  });

  test('clamp, add, mulSigmoid and gatedAct work on their columns alone', () => {
    const next = random(5);
    const [rows, ld, width] = [4, 75, 35];
    const values = normals(next, rows * ld, 5);
    const x = bench.buffer(rows, ld, values);
    bench.run([ops.clamp({ x, off: 3, width, lo: -2, hi: 1.5 })], rows);
    for (let t = 0; t < rows; t++) {
      expect(row(x.f32, t, ld, 3, width)).toEqual(row(values, t, ld, 3, width).map((v) => Math.min(1.5, Math.max(-2, v))));
      expect(row(x.f32, t, ld, 0, 3)).toEqual(row(values, t, ld, 0, 3));
      expect(row(x.f32, t, ld, 38, 37)).toEqual(row(values, t, ld, 38, 37));
    }

    const sumValues = normals(next, rows * ld);
    const sum = bench.buffer(rows, ld, sumValues);
    bench.run([ops.add({ out: sum, x, width, outOff: 1, xOff: 2, scale: 0.25 })], rows);
    for (let t = 0; t < rows; t++) {
      const addend = row(x.f32, t, ld, 2, width);
      expectClose(
        row(sum.f32, t, ld, 1, width),
        row(sumValues, t, ld, 1, width).map((v, i) => v + 0.25 * addend[i]!),
      );
    }

    for (const gateStep of [0, 1] as const) {
      const gateValues = normals(next, rows * ld, 4);
      const gate = bench.buffer(rows, ld, gateValues);
      const y = bench.buffer(rows, ld, values);
      bench.run([ops.mulSigmoid({ x: y, gate, width, off: 4, gateOff: 7, gateStep })], rows);
      for (let t = 0; t < rows; t++) {
        const want = row(values, t, ld, 4, width).map((v, i) => v * reference.sigmoid(gateValues[t * ld + 7 + i * gateStep]!));
        expectClose(row(y.f32, t, ld, 4, width), want);
      }
    }

    for (const kind of ['silu', 'gpt_oss'] as const)
      for (const step of [1, 2] as const) {
        const [gateOff, upOff] = step === 1 ? [0, width] : [0, 1];
        const input = bench.buffer(rows, ld, values);
        const out = bench.buffer(rows, ld);
        bench.run([ops.gatedAct({ x: input, out, width, gateOff, upOff, step, outOff: 2, kind, alpha: 1.702, limit: 7 })], rows);
        for (let t = 0; t < rows; t++) {
          const at = (off: number, i: number) => values[t * ld + off + i * step]!;
          const want = Array.from({ length: width }, (_, i) => reference.gated(kind, at(gateOff, i), at(upOff, i), 1.702, 7));
          expectClose(row(out.f32, t, ld, 2, width), want);
        }
      }
  });

  test('linear and headLinear are dot products, stored or added', () => {
    const next = random(6);
    const [rows, n, k] = [5, 40, 26];
    const weightValues = normals(next, n * k);
    const weight = bench.weight('f32', weightValues, n, k);
    const biasValues = normals(next, n);
    const bias = bench.buffer(1, n, biasValues);
    const xValues = normals(next, rows * 60);
    const x = bench.buffer(rows, 60, xValues);
    const before = normals(next, rows * 50);
    const dot = (t: number, from: number, of: number) =>
      row(weightValues, of, k, 0, k).reduce((sum, w, i) => sum + w * xValues[t * 60 + from + i]!, 0);
    for (const mode of ['store', 'add'] as const) {
      const out = bench.buffer(rows, 50, before);
      bench.run([ops.linear({ x, out, weight, bias, xOff: 3, outOff: 4, mode, scale: 0.5, logitRows: false })], rows);
      for (let t = 0; t < rows; t++) {
        const want = Array.from(
          { length: n },
          (_, i) => (mode === 'add' ? before[t * 50 + 4 + i]! : 0) + 0.5 * (dot(t, 3, i) + biasValues[i]!),
        );
        expectClose(row(out.f32, t, 50, 4, n), want);
      }
    }
    const out = bench.buffer(rows, 60);
    bench.run([ops.headLinear({ x, out, weight, heads: 2, xOff: 1, xStride: 28, outOff: 0, outStride: 30, outDim: 20 })], rows);
    for (let t = 0; t < rows; t++)
      for (let h = 0; h < 2; h++) {
        expectClose(
          row(out.f32, t, 60, h * 30, 20),
          Array.from({ length: 20 }, (_, i) => dot(t, 1 + h * 28, h * 20 + i)),
        );
      }
  });

  test('gather and ops on logit rows see the logit rows alone', () => {
    const values = normals(random(7), 6 * 20);
    const x = bench.buffer(6, 20, values);
    const last = bench.buffer(2, 20);
    const batch = batchOf([{ position: 0, rows: 6 }]);
    batch.logitRows = 2;
    batch.logitRow.set([1, 5]);
    const norm = { x: last, out: last, weight: null, bias: null, groups: 1, width: 20, xOff: 0, xStride: 20, outOff: 0, outStride: 20 };
    const rest = { kind: 'rms', weightStride: 0, eps: 1e-6, weightPlus: 0, logitRows: true } as const;
    bench.run([ops.gather({ x, out: last, width: 20 }), ops.norm({ ...norm, ...rest })], 6, batch);
    const of = { kind: 'rms', eps: 1e-6, weight: null, bias: null, weightPlus: 0 } as const;
    expectClose(row(last.f32, 0, 20, 0, 20), reference.norm(row(values, 1, 20, 0, 20), of));
    expectClose(row(last.f32, 1, 20, 0, 20), reference.norm(row(values, 5, 20, 0, 20), of));
    expect(Array.from(x.f32)).toEqual(Array.from(values));
  });

  test.each([
    { title: 'full', heads: 4, kvHeads: 2, kDim: 24, vDim: 20, window: 0, chunk: 0, sinks: false, dtype: 'f32', shared: false },
    {
      title: 'windowed, bf16, with sinks',
      heads: 6,
      kvHeads: 2,
      kDim: 32,
      vDim: 32,
      window: 9,
      chunk: 0,
      sinks: true,
      dtype: 'bf16',
      shared: false,
    },
    { title: 'in chunks', heads: 2, kvHeads: 2, kDim: 16, vDim: 16, window: 0, chunk: 8, sinks: false, dtype: 'f32', shared: false },
    {
      title: 'values inside the keys',
      heads: 8,
      kvHeads: 1,
      kDim: 48,
      vDim: 32,
      window: 0,
      chunk: 0,
      sinks: false,
      dtype: 'f32',
      shared: true,
    },
  ] as const)(
    'attention $title, over two steps of two sequences',
    ({ heads, kvHeads, kDim, vDim, window, chunk, sinks, dtype, shared }) => {
      const next = random(8);
      const scale = 0.3;
      const lengths = [19, 33];
      const total = lengths.reduce((a, b) => a + b, 0);
      const kv = native.kvCreate(bench.device, 8, kvHeads, kDim, vDim, dtype, shared);
      const values = {
        q: normals(next, total * heads * kDim),
        k: normals(next, total * kvHeads * kDim),
        v: normals(next, total * kvHeads * vDim),
        sink: normals(next, heads, 2),
      };
      const first = [0, lengths[0]!]; // Row of the values at which each sequence begins.
      const sinkBuffer = sinks ? bench.buffer(1, heads, values.sink) : null;
      // The first step brings all but two tokens of each sequence, the second the rest.
      for (const [from, to] of [
        [() => 0, (length: number) => length - 2],
        [(length: number) => length - 2, (length: number) => length],
      ]) {
        const sequences = lengths.map((length) => ({ position: from!(length), rows: to!(length) - from!(length) }));
        const batch = batchOf(sequences, 1);
        const source = sequences.flatMap(({ position, rows }, s) => Array.from({ length: rows }, (_, i) => first[s]! + position + i));
        const take = (of: Float32Array, width: number) => Float32Array.from(source.flatMap((r) => row(of, r, width, 0, width)));
        const q = bench.buffer(source.length, heads * kDim, take(values.q, heads * kDim));
        const k = bench.buffer(source.length, kvHeads * kDim, take(values.k, kvHeads * kDim));
        const v = bench.buffer(source.length, kvHeads * vDim, take(values.v, kvHeads * vDim));
        const out = bench.buffer(source.length, heads * vDim);
        bench.run(
          [
            ops.kvWrite({ k, v: shared ? null : v, kv, kOff: 0, kStride: kDim, vOff: 0, vStride: shared ? 0 : vDim }),
            ops.attention({
              q,
              out,
              kv,
              sinks: sinkBuffer,
              heads,
              qOff: 0,
              qStride: kDim,
              outOff: 0,
              outStride: vDim,
              window,
              chunk,
              scale,
            }),
          ],
          source.length,
          batch,
        );
        const stored = (x: number) => (dtype === 'bf16' ? bf16(x) : x);
        source.forEach((r, t) => {
          const s = r < first[1]! ? 0 : 1;
          for (let h = 0; h < heads; h++) {
            const head = Math.floor(h / (heads / kvHeads));
            const past = Array.from({ length: r - first[s]! + 1 }, (_, j) => first[s]! + j);
            const keys = past.map((p) => row(values.k, p, kvHeads * kDim, head * kDim, kDim).map(stored));
            const seen = past.map((p, j) =>
              shared ? keys[j]!.slice(0, vDim) : row(values.v, p, kvHeads * vDim, head * vDim, vDim).map(stored),
            );
            const of = { i: r - first[s]!, scale, window, chunk, sink: sinks ? values.sink[h]! : null };
            expectClose(
              row(out.f32, t, heads * vDim, h * vDim, vDim),
              reference.attend(row(values.q, r, heads * kDim, h * kDim, kDim), keys, seen, of),
              2e-5,
            );
          }
        });
      }
    },
  );
});

function bf16(x: number): number {
  const words = new Uint32Array(Float32Array.of(x).buffer);
  words[0] = (words[0]! + 0x7fff + ((words[0]! >>> 16) & 1)) & 0xffff0000;
  return new Float32Array(words.buffer)[0]!;
}
