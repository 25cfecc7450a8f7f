import { describe, expect, test } from 'vitest';
import type { DeviceBuffer, Experts, RowSum } from '../src/index.ts';
import { native, ops } from '../src/index.ts';
import { deviceOptions, nameOf, normals, random, Workbench } from './fixture.ts';

const shape = { hidden: 40, inter: 24, experts: 6, topK: 3, rows: 9, grid: -24 };

/** A layer's experts, their inputs and a routing of every row. */
function layer(bench: Workbench): { experts: Experts; x: DeviceBuffer; ids: Int32Array; weights: Float32Array } {
  const next = random(5);
  const { hidden, inter, experts: count, topK, rows } = shape;
  const experts = native.expertsCreate(bench.device, {
    slots: count,
    hidden,
    inter,
    format: 'f32',
    activation: 'silu',
    hasBias: true,
    alpha: 0,
    limit: 0,
  });
  for (let slot = 0; slot < count; slot++) {
    const source = (n: number, k: number) => bench.source(normals(next, n * k, k ** -0.5), n, k);
    native.expertsSet(experts, slot, {
      gate: source(inter, hidden),
      up: source(inter, hidden),
      down: source(hidden, inter),
      gateBias: source(1, inter),
      upBias: source(1, inter),
      downBias: source(1, hidden),
    });
  }
  const ids = Int32Array.from({ length: rows * topK }, (_, i) => ((i % topK) * 2 + (next() < 0.5 ? 0 : 1)) % count);
  return { experts, x: bench.buffer(rows, hidden, normals(next, rows * hidden)), ids, weights: normals(next, rows * topK) };
}

/** What COMBINE makes of a sum, on a residual of zeros. */
function combined(bench: Workbench, sum: RowSum): number[] {
  const residual = bench.buffer(shape.rows, shape.hidden);
  bench.run([ops.combine({ sum, residual, shared: null, grid: shape.grid, multiplier: 1 })], shape.rows);
  return Array.from(residual.f32);
}

describe.each(deviceOptions.map((options) => ({ name: nameOf(options), options })))('$name', ({ options }) => {
  test('experts divided over two workers, through the wire, give the bits of one', () => {
    const bench = new Workbench(options);
    const { experts, x, ids, weights } = layer(bench);
    const { rows, hidden, topK, grid } = shape;

    const whole = native.sumCreate(bench.device, 'exact', rows, hidden);
    const idBuffer = bench.buffer(rows, topK);
    idBuffer.i32.set(ids);
    const slots = bench.ints([0, 1, 2, 3, 4, 5]);
    const routed = { x, ids: idBuffer, weights: bench.buffer(rows, topK, weights), experts, sum: whole, slots, k: topK, grid };
    bench.run([ops.experts(routed)], rows);
    const want = combined(bench, whole);

    // What the sum should be, from each expert's own outputs.
    const probed = Array.from({ length: shape.experts }, (_, slot) => {
      const out = new Float32Array(rows * hidden);
      native.expertsProbe(experts, slot, x.f32, rows, out);
      return out;
    });
    want.forEach((got, at) => {
      const row = Math.floor(at / hidden);
      let exact = 0;
      for (let i = 0; i < topK; i++) exact += weights[row * topK + i]! * probed[ids[row * topK + i]!]![at]!;
      expect(Math.abs(got - exact)).toBeLessThanOrEqual(topK * 2 ** grid + 1e-6 * Math.abs(exact));
    });

    // Home hosts the odd experts; a peer gets the rows that need the even ones, in an order of its own.
    const home = native.sumCreate(bench.device, 'exact', rows, hidden);
    const peer = native.sumCreate(bench.device, 'exact', rows, hidden);
    const pairs = (parity: number) => [...ids.keys()].filter((p) => ids[p]! % 2 === parity);
    const row = (p: number) => Math.floor(p / topK);
    const odd = pairs(1);
    native.sumClear(home, rows);
    native.expertsRun(
      experts,
      x,
      odd.length,
      Int32Array.from(odd, row),
      Int32Array.from(odd, (p) => ids[p]!),
      Float32Array.from(odd, (p) => weights[p]!),
      grid,
      home,
    );
    const even = pairs(0);
    const sent = [...new Set(even.map(row))].reverse();
    const rowsBytes = new Uint8Array(8 + sent.length * hidden * 4);
    const written = native.rowsEncode(x, sent.length, Int32Array.from(sent), 'f32', rowsBytes, 8);
    expect(written).toBe(sent.length * hidden * 4);
    const received = bench.buffer(rows, hidden);
    native.rowsDecode(received, sent.length, 'f32', rowsBytes, 8, written);
    native.sumClear(peer, sent.length);
    native.expertsRun(
      experts,
      received,
      even.length,
      Int32Array.from(even, (p) => sent.indexOf(row(p))),
      Int32Array.from(even, (p) => ids[p]!),
      Float32Array.from(even, (p) => weights[p]!),
      grid,
      peer,
    );
    const sumBytes = new Uint8Array(16 + native.sumEncodedMax(sent.length, hidden));
    const length = native.sumEncode(peer, sent.length, Int32Array.from(sent.keys()), sumBytes, 16);
    native.sumAddEncoded(home, sent.length, Int32Array.from(sent), sumBytes, 16, length);
    expect(combined(bench, home)).toEqual(want);

    // A truncated frame adds nothing.
    expect(() => native.sumAddEncoded(home, sent.length, Int32Array.from(sent), sumBytes, 16, length - 8)).toThrow();
    expect(combined(bench, home)).toEqual(want);
    native.expertsClear(experts, 0);
    expect(() => native.expertsRun(experts, x, 1, Int32Array.of(0), Int32Array.of(0), Float32Array.of(1), grid, home)).toThrow(/slot/);
    bench.close();
  });

  test.each(['int8', 'fp8'] as const)('rows as %s lose half a step at most, each by itself', (dtype) => {
    const bench = new Workbench(options);
    const [rows, width] = [5, 200];
    const values = normals(random(9), rows * width, 3);
    values.fill(0, width, 2 * width);
    const x = bench.buffer(rows, width, values);
    const out = new Uint8Array(rows * width * 2);
    const bytes = native.rowsEncode(x, rows, Int32Array.of(4, 3, 2, 1, 0), dtype, out, 0);
    expect(bytes).toBe(rows * (width + (dtype === 'int8' ? 4 : 8)));
    const back = bench.buffer(rows, width);
    native.rowsDecode(back, rows, dtype, out, 0, bytes);
    for (let row = 0; row < rows; row++)
      for (let at = 0; at < width; at++) {
        const sent = values[(4 - row) * width + at]!;
        const group = dtype === 'int8' ? [0, width] : at < 128 ? [0, 128] : [128, width];
        const largest = Math.max(...values.subarray((4 - row) * width + group[0]!, (4 - row) * width + group[1]!).map(Math.abs));
        // Steps of int8 are even; those of e4m3 are an eighth of the value's power of two, 2^-9 of the scale at least.
        const step =
          dtype === 'int8' ? largest / 127 : Math.max(2 ** (Math.floor(Math.log2(Math.abs(sent) || 1)) - 3), (largest / 448) * 2 ** -9);
        expect(Math.abs(back.f32[row * width + at]! - sent)).toBeLessThanOrEqual(sent === 0 ? 0 : 0.51 * step * (dtype === 'fp8' ? 2 : 1));
      }
    const alone = new Uint8Array(2 * width);
    const one = native.rowsEncode(x, 1, Int32Array.of(2), dtype, alone, 0);
    expect(alone.subarray(0, one)).toEqual(out.subarray(2 * one, 3 * one));
    bench.close();
  });
});
