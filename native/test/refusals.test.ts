import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { addon } from '../src/addon.ts';
import type { Batch, DeviceBuffer, NativeObject, Op } from '../src/index.ts';
import { NativeError, native, ops } from '../src/index.ts';
import { encodeOps } from '../src/op-encoding.ts';
import { batchOf, expectRefused, normals, oneSequence, random, Workbench } from './fixture.ts';

let bench: Workbench;
let x: DeviceBuffer;
let out: DeviceBuffer;
beforeAll(() => {
  bench = new Workbench({ backend: 'cpu', isa: 'auto', threads: 2, cpus: null });
  x = bench.buffer(4, 32, normals(random(1), 128));
  out = bench.buffer(4, 32);
});
afterAll(() => bench.close());

const create = (...list: Op[]) => native.programCreate(bench.device, list, 4, 2, 64);
const norm = { kind: 'rms', weight: null, bias: null, groups: 1, width: 32, xOff: 0, xStride: 32, outOff: 0, outStride: 32 } as const;
const normRest = { weightStride: 0, eps: 1e-6, weightPlus: 0, logitRows: false } as const;

test('devices name what they refuse', () => {
  const open = { backend: 'cpu', isa: 'auto', threads: 1, cpus: null } as const;
  expectRefused(() => native.deviceOpen({ ...open, backend: 'gpu' as 'cpu' }), /backend = "gpu": must be cpu, cpu-ref, cuda or cuda:N/);
  expectRefused(() => native.deviceOpen({ ...open, isa: 'sse' as 'avx2' }), /isa = "sse"/);
  expectRefused(() => native.deviceOpen({ ...open, threads: 0 }), /threads = 0/);
  expectRefused(() => native.deviceOpen({ ...open, threads: 1.5 }), /threads = 1.5: must be an integer/);
  expectRefused(() => native.deviceOpen({ ...open, threads: 2, cpus: [0] }), /cpus has 1 numbers: threads = 2/);
  expectRefused(() => native.deviceOpen({ ...open, cpus: [100_000] }), /cpus\[0\] = 100000/);
  expectRefused(() => native.deviceOpen({ ...open, cpus: undefined as unknown as null }), /cpus is undefined: absent is null/);
});

test('files name the path', () => {
  expectRefused(() => native.fileMap('/nonexistent/weights.bin'), /cannot open \/nonexistent\/weights.bin/, 'io');
  expectRefused(() => native.fileMap('/'), /cannot map \/: not a regular file/, 'io');
});

test('strings end where JavaScript ends them', () => {
  const { file } = bench.source(Float32Array.of(1), 1, 1);
  expectRefused(() => native.fileMap(`${file.path}\0.other`), /path holds a zero character/);
  const open = { backend: 'cpu\0' as 'cpu', isa: 'auto', threads: 1, cpus: null } as const;
  expectRefused(() => native.deviceOpen(open), /backend holds a zero character/);
});

test('a pipe that nobody writes to is refused, not waited for', () => {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'switchyard-native-'));
  try {
    const pipe = path.join(folder, 'pipe');
    expect(spawnSync('mkfifo', [pipe]).status).toBe(0);
    // In a process of its own, because whoever waits there waits for ever.
    const addonFile = fileURLToPath(new URL('../build/switchyard.node', import.meta.url));
    const script = 'require(process.argv[1]).fileMap(process.argv[2])';
    const run = spawnSync(process.execPath, ['-e', script, addonFile, pipe], { encoding: 'utf8', timeout: 10_000 });
    expect(run.stderr).toContain(`cannot map ${pipe}: not a regular file`);
    expect(run.status).toBe(1);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('objects name the field, its value and its limit', () => {
  expectRefused(() => native.bufferCreate(bench.device, 0, 4), /rows = 0: must be at least 1/);
  expectRefused(() => native.bufferCreate(bench.device, 4, -1), /width = -1/);
  expectRefused(() => native.weightCreate(bench.device, 'f64' as 'f32', 4, 4), /format = "f64": must be one of f32, f16/);
  expectRefused(() => native.kvCreate(bench.device, 0, 1, 8, 8, 'f32', false), /blocks = 0/);
  expectRefused(() => native.kvCreate(bench.device, 1, 1, 8, 9, 'f32', true), /v_dim = 9/);
  expectRefused(() => native.kvCreate(bench.device, 1, 1, 8, 8, 'i32' as 'f32', false), /dtype/);
  const source = bench.source(new Float32Array(100), 10, 10);
  expectRefused(() => native.bufferLoad(out, 29, source), /first_float = 29: 100 floats must fit a buffer of 128/);
  expectRefused(() => native.bufferLoad(out, 0, { ...source, n: 11 }), /source: data reads bytes 0\.\.439 of a file of 400/);
  expectRefused(() => native.bufferLoad(out, 0, { ...source, offset: 8 }), /source: data reads bytes 8\.\.407 of a file of 400/);
  expectRefused(() => native.tableCreate(bench.device, { ...source, strideN: 2 ** 52 }), /source: data reads bytes 0\.\.\d{18} of a file/);
  expectRefused(
    () => native.bufferLoad(out, 0, { ...source, file: x as unknown as typeof source.file }),
    /source.file is a buffer: it must be a file/,
  );
});

test('handles are checked: of another kind, foreign, freed', () => {
  expectRefused(() => native.sumClear(x as never, 0), /sum is a buffer: it must be a sum/);
  expectRefused(() => native.sumClear({ type: 'sum' } as never, 0), /sum is not a handle of this library/);
  expectRefused(() => native.objectFree(bench.device as never), /object is a device/);
  const sum = native.sumCreate(bench.device, 'exact', 1, 8);
  native.objectFree(sum);
  native.objectFree(sum); // A second time does nothing.
  expectRefused(() => native.sumClear(sum, 0), /sum \(sum\) was freed/);
  const program = create();
  native.programFree(program);
  expectRefused(() => native.programRun(program, oneSequence(1)), /program \(program\) was freed/);
});

test('freeing a buffer empties its arrays; a program that uses it goes on', () => {
  const own = bench.buffer(4, 32, x.f32);
  const program = create(ops.norm({ x: own, out, ...norm, ...normRest }));
  const { f32, i32 } = own;
  native.objectFree(own);
  expect(f32.length).toBe(0);
  expect(i32.length).toBe(0);
  out.f32.fill(0);
  native.programRun(program, oneSequence(4));
  expect(out.f32.some((v) => v !== 0)).toBe(true);
  native.programFree(program);
});

test('closing a device frees what is on it', () => {
  const other = new Workbench({ backend: 'cpu', isa: 'auto', threads: 1, cpus: null });
  const buffer = other.buffer(2, 2);
  const program = native.programCreate(other.device, [], 1, 1, 16);
  expectRefused(() => create(ops.norm({ x, out: buffer, ...norm, ...normRest })), /belongs to another device/);
  other.close();
  expect(buffer.f32.length).toBe(0);
  expectRefused(() => native.programRun(program, oneSequence(1)), /was freed/);
  expectRefused(() => native.bufferCreate(other.device, 1, 1), /device \(device\) was freed/);
});

test('ops are checked against their objects', () => {
  const kv = native.kvCreate(bench.device, 4, 2, 8, 8, 'f32', false);
  const weight = bench.weight('f32', new Float32Array(32 * 8), 8, 32);
  const linear = { x, out, weight, bias: null, xOff: 0, outOff: 0, mode: 'store', scale: 1, logitRows: false } as const;
  const attention = { q: x, out, kv, sinks: null, heads: 4, qOff: 0, qStride: 8, outOff: 0, outStride: 8, window: 0, chunk: 0, scale: 1 };
  const rope = { x, heads: 2, off: 0, stride: 16, rot: 8, layout: 'half', maxPos: 64 } as const;
  const route = {
    logits: x,
    ids: out,
    weights: bench.buffer(4, 8),
    selectBias: null,
    experts: 32,
    k: 4,
    score: 'softmax',
    groups: 1,
  } as const;
  const routeRest = { topGroups: 1, groupScore: 'max', renorm: false, maskZero: false, scale: 1, renormEps: 0, jitterEps: 0 } as const;

  expectRefused(
    () => create(ops.norm({ x, out, ...norm, ...normRest, width: 33 })),
    /op 0 \(norm\): x needs columns up to 33: the buffer has 32/,
  );
  expectRefused(() => create(ops.norm({ x, out, ...norm, ...normRest, xOff: -1 })), /x begins at column -1/);
  expectRefused(
    () => create(ops.norm({ x, out, ...norm, ...normRest, groups: 2, width: 16, xStride: 16, outStride: 8 })),
    /stride 8: pieces of 16 would overlap/,
  );
  expectRefused(() => create(ops.norm({ x, out: x, ...norm, ...normRest, width: 30, outOff: 1 })), /out overlaps/);
  expectRefused(() => create(ops.norm({ x, out, ...norm, ...normRest, weight: bench.buffer(1, 31) })), /weight is 31 wide: 32 are needed/);
  expectRefused(() => create(ops.norm({ x: bench.buffer(3, 32), out, ...norm, ...normRest })), /x has 3 rows: the program runs up to 4/);
  expectRefused(() => create(ops.linear({ ...linear, out: x })), /out overlaps/);
  expectRefused(() => create(ops.linear({ ...linear, xOff: 1 })), /x needs columns up to 33/);
  expectRefused(() => create(ops.linear({ ...linear, outOff: 25 })), /out needs columns up to 33/);
  expectRefused(() => create(ops.linear({ ...linear, weight: kv as never })), /weight is a KV cache: it must be a weight/);
  expectRefused(() => create(ops.linear({ ...linear, weight: null as never })), /weight is missing/);
  expectRefused(() => create(ops.linear({ ...linear, scale: Number.NaN })), /scale = nan/);
  expectRefused(() => create(ops.attention({ ...attention, heads: 3 })), /heads = 3: must be a multiple of the cache's kv_heads = 2/);
  expectRefused(() => create(ops.attention({ ...attention, heads: 6 })), /q needs columns up to 48/);
  expectRefused(() => create(ops.attention({ ...attention, window: -1 })), /window = -1/);
  expectRefused(() => create(ops.kvWrite({ k: x, v: null, kv, kOff: 0, kStride: 8, vOff: 0, vStride: 8 })), /v is missing/);
  expectRefused(() => create(ops.rope({ ...rope, table: bench.buffer(63, 8) })), /table has 63 rows: must be a multiple of maxPos = 64/);
  expectRefused(() => create(ops.rope({ ...rope, table: bench.buffer(64, 7), rot: 7 })), /rot = 7: must be even/);
  expectRefused(() => create(ops.route({ ...route, ...routeRest, k: 33 })), /k = 33: must be 1..32/);
  expectRefused(() => create(ops.route({ ...route, ...routeRest, groups: 5 })), /groups = 5: must divide experts = 32/);
  expectRefused(() => create(ops.route({ ...route, ...routeRest, groups: 16 })), /k = 4: 1 groups of 2 hold fewer/);
  expectRefused(() => create(ops.route({ ...route, ...routeRest, score: 'sparse_mixer' })), /k = 4: the sparse mixer chooses exactly 2/);
  const nodes = { of: bench.ints(Array(32).fill(1)), limit: 1 };
  expectRefused(() => create(ops.route({ ...route, ...routeRest, nodes: { ...nodes, limit: 33 } })), /nodeLimit = 33: must be 1..32/);
  expectRefused(
    () => create(ops.route({ ...route, ...routeRest, nodes: { ...nodes, of: bench.ints([1]) } })),
    /nodes is 1 wide: 32 are needed/,
  );
  expectRefused(() => create(ops.route({ ...route, ...routeRest, groups: 2, topGroups: 1, nodes })), /nodes: not with groups/);
  const factored = { ...route, ...routeRest, score: 'factored', groups: 8 } as const;
  expectRefused(() => create(ops.route({ ...factored, groups: 1 })), /groups = 1: factored scores need two groups or more/);
  expectRefused(() => create(ops.route({ ...factored, topGroups: 3 })), /k = 4: must be a multiple of topGroups = 3/);
  expectRefused(() => create(ops.route({ ...factored, selectBias: x })), /factored\): takes no selectBias/);
  expectRefused(
    () => create(ops.route({ ...factored, groups: 32, k: 2, topGroups: 2 })),
    /logits needs columns up to 33: the buffer has 32/,
  );
  expectRefused(() => create(ops.clamp({ x, off: 0, width: 4, lo: 2, hi: 1 })), /lo = 2: must not exceed hi = 1/);
  expectRefused(() => create({ kind: 99, flags: 0, objects: [], ints: [], floats: [] }), /op 0: kind = 99/);
  expectRefused(() => create({ ...ops.gather({ x, out, width: 4 }), flags: 6 }), /flags = 6/);
  expectRefused(
    () => create({ ...ops.route({ ...route, ...routeRest }), flags: 1 }),
    /op 0 \(route\): flags: this op cannot work on logit rows/,
  );
  // An object number that no field of the op reads.
  const { bytes, objects } = encodeOps([{ ...ops.clamp({ x, off: 0, width: 4, lo: 0, hi: 1 }), flags: 1 }]);
  new DataView(bytes.buffer).setUint32(12, 1000, true);
  expectRefused(
    () => addon.programCreate(bench.device, bytes, objects, 4, 2, 64),
    /op 0 \(clamp\): obj\[1\] = object 1000: the program has 1/,
  );
  expectRefused(
    () => create({ ...ops.clamp({ x, off: 0, width: 4, lo: 1, hi: 2 }), ints: [2 ** 31] }),
    /int 0 = 2147483648 is not a 32-bit integer/,
  );
  // Absent is null: a sink or a bias that is undefined must not be left out in silence.
  expectRefused(() => create(ops.attention({ ...attention, sinks: undefined as never })), /op 0: object 3 is undefined: absent is null/);
  expectRefused(() => create(ops.linear({ ...linear, bias: undefined as never })), /op 0: object 3 is undefined/);
});

test('a wrong batch is refused before anything runs', () => {
  const table = native.tableCreate(bench.device, bench.source(new Float32Array(10 * 32).fill(1), 10, 32));
  const kv = native.kvCreate(bench.device, 3, 1, 16, 16, 'f32', false);
  const rope = bench.buffer(2 * 48, 8);
  const last = bench.buffer(1, 32);
  const program = native.programCreate(
    bench.device,
    [
      ops.embed({ out: x, table, width: 32, scale: 1 }),
      ops.rope({ x, table: rope, heads: 1, off: 0, stride: 8, rot: 8, layout: 'half', maxPos: 48 }),
      ops.kvWrite({ k: x, v: x, kv, kOff: 0, kStride: 16, vOff: 16, vStride: 16 }),
      ops.gather({ x, out: last, width: 32 }),
    ],
    4,
    2,
    64,
  );
  const good = (): Batch => {
    const batch = native.batchCreate(6, 3, 4, 6);
    batch.rows = 3;
    batch.seqs = 2;
    batch.logitRows = 1;
    batch.token.set([1, 2, 3]);
    batch.seqRow.set([0, 2, 3]);
    batch.seqPos.set([0, 20]);
    batch.block.set([2, 9, 9, 9, 0, 1, 9, 9]); // Block 9 is never reached.
    batch.logitRow.set([2]);
    return batch;
  };
  native.programRun(program, good());
  x.f32.fill(7);
  const wrong: [(batch: Batch) => void, RegExp][] = [
    [
      (b) => {
        b.rows = 5;
      },
      /rows = 5: must be 0..4/,
    ],
    [
      (b) => {
        b.rows = 7;
      },
      /rows = 7/,
    ],
    [
      (b) => {
        b.rows = -1;
      },
      /rows = -1/,
    ],
    [
      (b) => {
        b.seqs = 3;
      },
      /seqs = 3: must be 0..2/,
    ],
    [
      (b) => {
        b.logitRows = 2;
      },
      /logit_rows = 2: must be 0..1/,
    ],
    [
      (b) => {
        b.token[2] = 10;
      },
      /token\[2\] = 10: must be 0..9/,
    ],
    [
      (b) => {
        b.token[0] = -1;
      },
      /token\[0\] = -1/,
    ],
    [
      (b) => {
        b.seqRow[0] = 1;
      },
      /seq_row\[0\] = 1/,
    ],
    [
      (b) => {
        b.seqRow[1] = 4;
      },
      /seq_row\[1\] = 4/,
    ],
    [
      (b) => {
        b.seqRow[2] = 2;
      },
      /seq_row\[2\] = 2: the last sequence ends at the last row/,
    ],
    [
      (b) => {
        b.seqPos[0] = -1;
      },
      /seq_pos\[0\] = -1/,
    ],
    [
      (b) => {
        b.seqPos[1] = 48;
      },
      /seq_pos\[1\] = 48: with 1 rows it must be 0..47/,
    ],
    [
      (b) => {
        b.seqPos[0] = 2 ** 31 - 1;
      },
      /seq_pos\[0\] = 2147483647/,
    ],
    [
      (b) => {
        b.seqVariant[1] = 2;
      },
      /seq_variant\[1\] = 2: must be 0..1/,
    ],
    [
      (b) => {
        b.block[5] = 3;
      },
      /block\[1, 1\] = 3: must be 0..2/,
    ],
    [
      (b) => {
        b.block[0] = -1;
      },
      /block\[0, 0\] = -1/,
    ],
    [
      (b) => {
        b.logitRow[0] = 3;
      },
      /logit_row\[0\] = 3/,
    ],
  ];
  for (const [spoil, message] of wrong) {
    const batch = good();
    spoil(batch);
    expectRefused(() => native.programRun(program, batch), message);
  }
  for (const count of [1.5, 2 ** 32 + 1, Number.NaN, undefined as never])
    for (const name of ['rows', 'seqs', 'logitRows'] as const)
      expectRefused(
        () => {
          good()[name] = count;
        },
        new RegExp(`batch ${name} = ${count}: must be a 32-bit integer`),
      );
  expectRefused(() => native.programRun(program, { ...good() } as Batch), /batch was not made by batchCreate/);
  expect(x.f32.every((v) => v === 7)).toBe(true);
  expectRefused(() => native.batchCreate(0, 1, 1, 1), /maxRows = 0/);
});

test('the last positions of the longest context need all of their blocks', () => {
  const kv = native.kvCreate(bench.device, 1, 2, 8, 8, 'f32', false);
  const write = ops.kvWrite({ k: x, v: x, kv, kOff: 0, kStride: 8, vOff: 16, vStride: 8 });
  const program = native.programCreate(bench.device, [write], 1, 1, 2 ** 31 - 1);
  const batch = oneSequence(1);
  batch.seqPos[0] = 2 ** 31 - 2;
  expectRefused(() => native.programRun(program, batch), /max_blocks = 1: sequence 0 needs 134217728/);
});

test('byte ranges are checked', () => {
  const row = Int32Array.of(0, 1);
  const bytes = new Uint8Array(300);
  expectRefused(() => native.rowsEncode(x, 2, row, 'f32', bytes, 301), /offset = 301/);
  expectRefused(() => native.rowsEncode(x, 2, row, 'f32', bytes, 100), /capacity 200 is below the 256 bytes of 2 rows/);
  expectRefused(() => native.rowsEncode(x, 3, row, 'f32', bytes, 0), /row has 2 elements: 3 are needed/);
  expectRefused(() => native.rowsDecode(x, 2, 'f32', bytes, 100, 256), /length = 256/);
  expectRefused(() => native.rowsDecode(x, 2, 'f32', bytes, 0, 255), /255 bytes are not 2 rows of 128/, 'corrupt');
  expect(native.rowsEncode(x, 2, row, 'f32', bytes, 44)).toBe(256);
});

test('no op, however wrong, brings the process down', () => {
  const kv = native.kvCreate(bench.device, 2, 2, 8, 8, 'bf16', false);
  const weight = bench.weight('f32', new Float32Array(32 * 8), 8, 32);
  const table = native.tableCreate(bench.device, bench.source(new Float32Array(320), 10, 32));
  const sum = native.sumCreate(bench.device, 'exact', 4, 32);
  const objects: (NativeObject | null)[] = [x, out, bench.buffer(64, 8), kv, weight, table, sum, null];
  const int = fc.oneof(fc.integer({ min: -2, max: 40 }), fc.constantFrom(2 ** 31 - 1, -(2 ** 31), 65536));
  const op = fc.record({
    kind: fc.integer({ min: 0, max: 16 }),
    flags: fc.constantFrom(0, 0, 0, 1, 2),
    objects: fc.array(fc.constantFrom(...objects), { minLength: 6, maxLength: 6 }),
    ints: fc.array(int, { minLength: 10, maxLength: 10 }),
    floats: fc.array(fc.constantFrom(0, 1, 1e-5, Number.NaN, -3), { minLength: 6, maxLength: 6 }),
  });
  const batch = batchOf([{ position: 0, rows: 4 }]);
  let ran = 0;
  fc.assert(
    fc.property(op, (each) => {
      try {
        const program = native.programCreate(bench.device, [each], 4, 2, 64);
        ran++;
        native.programRun(program, batch);
        native.programFree(program);
      } catch (error) {
        if (!(error instanceof NativeError)) throw error;
      }
    }),
    { numRuns: 20_000, seed: 7 },
  );
  expect(ran).toBeGreaterThan(20); // Some are right by luck, and run.
});

test('pieces of heads may lie between one another, but not on one another', () => {
  const [heads, k, outDim] = [4, 8, 4];
  const buffer = bench.buffer(4, 128);
  const weight = bench.weight('f32', new Float32Array(heads * outDim * k), heads * outDim, k);
  const meet = (from: number, to: number) => from < to + outDim && to < from + k;
  for (const xStride of [8, 12, 16, 20])
    for (const outStride of [4, 6, 8, 12, 16])
      for (let outOff = 0; outOff <= 70; outOff++) {
        const op = ops.headLinear({ x: buffer, out: buffer, weight, heads, xOff: 3, xStride, outOff, outStride, outDim });
        const pieces = [...Array(heads * heads).keys()].map(
          (i) => [3 + Math.floor(i / heads) * xStride, outOff + (i % heads) * outStride] as const,
        );
        if (pieces.some(([from, to]) => meet(from, to))) expectRefused(() => create(op), /out of head \d overlaps x of head \d/);
        else native.programFree(create(op));
      }
});
