import { expect, test } from 'vitest';
import type { DeviceOptions } from '../src/index.ts';
import { native, ops } from '../src/index.ts';
import { batchOf, deviceOptions, nameOf, normals, random, Workbench } from './fixture.ts';

const shape = { hidden: 64, heads: 4, kvHeads: 2, headDim: 16, vocab: 50, experts: 8, topK: 2, inter: 48, maxRows: 24, maxContext: 96 };

/** A one-layer MoE transformer with every kind of op in it, filled from a seed. */
class TinyModel {
  readonly bench: Workbench;
  private readonly program;
  readonly logits;
  readonly residual;

  constructor(options: DeviceOptions) {
    const next = random(42);
    const bench = new Workbench(options);
    this.bench = bench;
    const { hidden, heads, kvHeads, headDim, vocab, experts, topK, inter, maxRows, maxContext } = shape;
    const qWidth = heads * headDim;
    const kvWidth = kvHeads * headDim;
    const width = qWidth + 2 * kvWidth;
    const weight = (n: number, k: number) => bench.weight('bf16-x16', normals(next, n * k, k ** -0.5).map(truncate), n, k);
    const vector = (n: number) => bench.buffer(1, n, normals(next, n));
    const table = native.tableCreate(bench.device, bench.source(normals(next, vocab * hidden), vocab, hidden));
    const residual = bench.buffer(maxRows, hidden);
    const normed = bench.buffer(maxRows, hidden);
    const qkv = bench.buffer(maxRows, width);
    const attended = bench.buffer(maxRows, qWidth);
    const mixed = bench.buffer(maxRows, qWidth);
    const scores = bench.buffer(maxRows, experts);
    const ids = bench.buffer(maxRows, topK);
    const weights = bench.buffer(maxRows, topK);
    const shared = bench.buffer(maxRows, hidden);
    const gateUp = bench.buffer(maxRows, 2 * inter);
    const last = bench.buffer(maxRows, hidden);
    const logits = bench.buffer(maxRows, vocab);
    const rope = bench.buffer(maxContext, headDim, normals(next, maxContext * headDim, 0.4));
    const kv = native.kvCreate(bench.device, 24, kvHeads, headDim, headDim, 'bf16', false);
    const sum = native.sumCreate(bench.device, 'exact', maxRows, hidden);
    const slots = bench.ints([7, 6, 5, 4, 3, 2, 1, 0]);
    const bank = native.expertsCreate(bench.device, {
      slots: experts,
      hidden,
      inter,
      format: 'bf16-x16',
      activation: 'silu',
      hasBias: false,
      alpha: 0,
      limit: 0,
    });
    for (let slot = 0; slot < experts; slot++) {
      const source = (n: number, k: number) => bench.source(normals(next, n * k, k ** -0.5), n, k);
      const sources = { gate: source(inter, hidden), up: source(inter, hidden), down: source(hidden, inter) };
      native.expertsSet(bank, slot, { ...sources, gateBias: null, upBias: null, downBias: null });
    }
    const norm = { bias: null, groups: 1, xOff: 0, xStride: 0, outOff: 0, outStride: 0, kind: 'rms', weightStride: 0, eps: 1e-6 } as const;
    const full = { ...norm, width: hidden, weightPlus: 0 };
    const linear = { bias: null, xOff: 0, outOff: 0, mode: 'store', scale: 1, logitRows: false } as const;
    const heads3 = { off: 0, stride: headDim, rot: headDim, layout: 'half', maxPos: maxContext } as const;
    const columns = { qOff: 0, qStride: headDim, outOff: 0, outStride: headDim, window: 0, chunk: 0 };
    this.program = native.programCreate(
      bench.device,
      [
        ops.embed({ out: residual, table, width: hidden, scale: 1 }),
        ops.norm({ ...full, x: residual, out: normed, weight: vector(hidden), logitRows: false }),
        ops.linear({ ...linear, x: normed, out: qkv, weight: weight(width, hidden) }),
        ops.clamp({ x: qkv, off: 0, width, lo: -3, hi: 3 }),
        ops.norm({
          ...norm,
          x: qkv,
          out: qkv,
          weight: vector(headDim),
          groups: heads,
          width: headDim,
          xStride: headDim,
          outStride: headDim,
          weightPlus: 1,
          logitRows: false,
        }),
        ops.rope({ ...heads3, x: qkv, table: rope, heads: heads + kvHeads }),
        ops.kvWrite({ k: qkv, v: qkv, kv, kOff: qWidth, kStride: headDim, vOff: qWidth + kvWidth, vStride: headDim }),
        ops.attention({ ...columns, q: qkv, out: attended, kv, sinks: vector(heads), heads, scale: headDim ** -0.5 }),
        ops.headLinear({
          x: attended,
          out: mixed,
          weight: weight(qWidth, headDim),
          heads,
          xOff: 0,
          xStride: headDim,
          outOff: 0,
          outStride: headDim,
          outDim: headDim,
        }),
        ops.linear({ ...linear, x: mixed, out: residual, weight: weight(hidden, qWidth), mode: 'add' }),
        ops.norm({ ...full, x: residual, out: normed, weight: vector(hidden), logitRows: false }),
        ops.linear({ ...linear, x: normed, out: scores, weight: weight(experts, hidden) }),
        ops.route({
          logits: scores,
          ids,
          weights,
          selectBias: null,
          experts,
          k: topK,
          score: 'softmax',
          groups: 1,
          topGroups: 1,
          groupScore: 'max',
          renorm: true,
          maskZero: false,
          scale: 1,
          renormEps: 0,
          jitterEps: 0,
        }),
        ops.linear({ ...linear, x: normed, out: gateUp, weight: weight(2 * inter, hidden) }),
        ops.gatedAct({
          x: gateUp,
          out: gateUp,
          width: inter,
          gateOff: 0,
          upOff: inter,
          step: 1,
          outOff: 0,
          kind: 'silu',
          alpha: 0,
          limit: 0,
        }),
        ops.linear({ ...linear, x: gateUp, out: shared, weight: weight(hidden, inter) }),
        ops.mulSigmoid({ x: shared, gate: scores, width: hidden, off: 0, gateOff: 1, gateStep: 0 }),
        ops.experts({ x: normed, ids, weights, experts: bank, sum, slots, k: topK, grid: -20 }),
        ops.combine({ sum, residual, shared, grid: -20, multiplier: 1 }),
        ops.add({ out: residual, x: shared, width: hidden, outOff: 0, xOff: 0, scale: 0.1 }),
        ops.gather({ x: residual, out: last, width: hidden }),
        ops.norm({ ...full, x: last, out: last, weight: vector(hidden), logitRows: true }),
        ops.linear({ ...linear, x: last, out: logits, weight: weight(vocab, hidden), logitRows: true }),
      ],
      maxRows,
      4,
      maxContext,
    );
    this.logits = logits;
    this.residual = residual;
  }

  /** Runs tokens of sequences, from a position each, in the KV blocks of `slot`; the logits of every row. */
  step(sequences: { tokens: number[]; position: number; slot: number }[]): number[][] {
    const batch = batchOf(sequences.map(({ tokens, position }) => ({ position, rows: tokens.length })));
    batch.token.set(sequences.flatMap(({ tokens }) => tokens));
    sequences.forEach(({ slot }, s) => {
      for (let b = 0; b < batch.maxBlocks; b++) batch.block[s * batch.maxBlocks + b] = slot * 6 + (5 - b);
    });
    batch.logitRows = batch.rows;
    for (let t = 0; t < batch.rows; t++) batch.logitRow[t] = t;
    native.programRun(this.program, batch);
    return Array.from({ length: batch.rows }, (_, t) => Array.from(this.logits.f32.subarray(t * shape.vocab, (t + 1) * shape.vocab)));
  }

  times() {
    return native.programTimes(this.program);
  }
}

/** To bf16, so that packing rounds nothing. */
function truncate(x: number): number {
  const words = new Uint32Array(Float32Array.of(x).buffer);
  words[0]! &= 0xffff0000;
  return new Float32Array(words.buffer)[0]!;
}

const prompt = (seed: number, length: number) => {
  const next = random(seed);
  return Array.from({ length }, () => Math.floor(next() * shape.vocab));
};

test('a row’s logits depend on its sequence alone: not on device, threads, chunking or company', () => {
  const first = prompt(1, 20);
  const second = prompt(2, 9);
  let want: number[][] | null = null;
  for (const options of deviceOptions) {
    const model = new TinyModel(options);
    const whole = model.step([{ tokens: first, position: 0, slot: 0 }]);
    want ??= whole;
    expect(want.flat().every(Number.isFinite)).toBe(true);
    expect(new Set(want.flat()).size).toBeGreaterThan(900);
    expect(whole, nameOf(options)).toEqual(want);

    const chunks = [
      ...model.step([{ tokens: first.slice(0, 7), position: 0, slot: 1 }]),
      ...model
        .step([
          { tokens: second, position: 0, slot: 2 },
          { tokens: first.slice(7, 19), position: 7, slot: 1 },
        ])
        .slice(second.length),
      ...model.step([{ tokens: first.slice(19), position: 19, slot: 1 }]),
    ];
    expect(chunks, `${nameOf(options)} in chunks`).toEqual(want);

    const decoded = first.flatMap((token, position) => model.step([{ tokens: [token], position, slot: 3 }]));
    expect(decoded, `${nameOf(options)} token by token`).toEqual(want);
    model.bench.close();
  }
});

test('times are counted by op kind, and only for ops that ran', () => {
  const model = new TinyModel({ backend: 'cpu', isa: 'auto', threads: 1, cpus: null });
  expect(Object.values(model.times()).every((seconds) => seconds === 0)).toBe(true);
  model.step([{ tokens: prompt(3, 12), position: 0, slot: 0 }]);
  const once = model.times();
  expect(Object.keys(once)).toHaveLength(15);
  for (const [kind, seconds] of Object.entries(once)) expect(seconds, kind).toBeGreaterThan(0);
  model.step([{ tokens: prompt(3, 12), position: 0, slot: 0 }]);
  expect(model.times().linear).toBeGreaterThan(once.linear!);
  model.bench.close();
});

test('JavaScript never sees flushed denormals', () => {
  const model = new TinyModel({ backend: 'cpu', isa: 'auto', threads: 2, cpus: null });
  model.step([{ tokens: prompt(4, 12), position: 0, slot: 0 }]);
  const smallest = Number.MIN_VALUE;
  expect(smallest * 4).toBeGreaterThan(0);
  model.residual.f32[0] = 1e-40;
  expect(model.residual.f32[0]! + model.residual.f32[0]!).toBeGreaterThan(0);
  model.bench.close();
});

test('programs of one device share scratch: a larger one that comes later moves it, and disturbs none', () => {
  const next = random(5);
  const bench = new Workbench({ backend: 'cpu', isa: 'auto', threads: 2, cpus: null });
  const linear = { bias: null, xOff: 0, outOff: 0, mode: 'store', scale: 1, logitRows: false } as const;
  const product = (rows: number, k: number) => {
    const x = bench.buffer(rows, k, normals(next, rows * k));
    const out = bench.buffer(rows, 40);
    const weight = bench.weight('f32', normals(next, 40 * k), 40, k);
    const program = native.programCreate(bench.device, [ops.linear({ ...linear, x, out, weight })], rows, 1, rows);
    return () => {
      native.programRun(program, batchOf([{ position: 0, rows }]));
      return Array.from(out.f32);
    };
  };
  const small = product(3, 64);
  const first = small();
  const large = product(90, 2048);
  const second = large();
  expect(small()).toEqual(first);
  expect(large()).toEqual(second);
  bench.close();
});
