import { afterAll, beforeAll, expect, test } from 'vitest';
import { addon } from '../src/addon.ts';
import type { DeviceBuffer } from '../src/index.ts';
import { native, ops, sharedMemory } from '../src/index.ts';
import { encodeOps } from '../src/op-encoding.ts';
import { expectRefused, normals, random, Workbench } from './fixture.ts';

/** What JavaScript may do with memory and handles while a call looks at them. */
let bench: Workbench;
let x: DeviceBuffer;
beforeAll(() => {
  bench = new Workbench({ backend: 'cpu', isa: 'auto', threads: 2, cpus: null });
  x = bench.buffer(4, 32, normals(random(1), 128));
});
afterAll(() => bench.close());

test('properties are read before handles are looked up: what a getter frees is not used', () => {
  const own = bench.buffer(1, 4);
  const from = bench.source(Float32Array.of(1, 2, 3, 4), 1, 4);
  const freesTheBuffer = {
    ...from,
    get file() {
      native.objectFree(own);
      return from.file;
    },
  };
  expectRefused(() => native.bufferLoad(own, 0, freesTheBuffer), /buffer \(buffer\) was freed/);
  const unmapsItsFile = {
    ...from,
    get offset() {
      native.fileUnmap(from.file);
      return 0;
    },
  };
  expectRefused(() => native.bufferLoad(x, 0, unmapsItsFile), /source.file \(file\) was freed/);
  expectRefused(() => native.tableCreate(bench.device, unmapsItsFile), /source.file \(file\) was freed/);

  const other = native.deviceOpen({ backend: 'cpu', isa: 'auto', threads: 1, cpus: null });
  const options = { slots: 1, hidden: 4, inter: 4, format: 'f32', activation: 'silu', hasBias: false, alpha: 0 } as const;
  const closesTheDevice = {
    ...options,
    get limit() {
      native.deviceClose(other);
      return 0;
    },
  };
  expectRefused(() => native.expertsCreate(other, closesTheDevice), /device \(device\) was freed/);

  // One source's getter frees the file of another, read before.
  const experts = native.expertsCreate(bench.device, { ...options, limit: 0 });
  const [gate, rest] = [bench.source(new Float32Array(16), 4, 4), bench.source(new Float32Array(16), 4, 4)];
  const down = {
    ...rest,
    get k() {
      native.fileUnmap(gate.file);
      return 4;
    },
  };
  const none = { gateBias: null, upBias: null, downBias: null };
  expectRefused(() => native.expertsSet(experts, 0, { gate, up: rest, down, ...none }), /source.file \(file\) was freed/);

  const kept = bench.buffer(4, 32);
  const { bytes } = encodeOps([ops.clamp({ x: kept, off: 0, width: 4, lo: 0, hi: 1 })]);
  const objects = [kept];
  Object.defineProperty(objects, 1, {
    enumerable: true,
    get: () => {
      native.objectFree(kept);
      return x;
    },
  });
  expectRefused(() => addon.programCreate(bench.device, bytes, objects, 4, 1, 16), /was freed/);
});

test('arrays over memory that other threads may change are refused', () => {
  const shared = new Int32Array(new SharedArrayBuffer(8));
  const sum = native.sumCreate(bench.device, 'exact', 2, 32);
  const bytes = new Uint8Array(1024);
  expectRefused(() => native.sumEncode(sum, 2, shared, bytes, 0), /row is over a SharedArrayBuffer: it must be over an ArrayBuffer/);
  expectRefused(() => native.rowsEncode(x, 2, shared, 'f32', bytes, 0), /row is over a SharedArrayBuffer/);
  expectRefused(() => native.rowsEncode(x, 1, Int32Array.of(0), 'f32', new Uint8Array(new SharedArrayBuffer(128)), 0), /out is over/);
  expectRefused(() => native.rowsDecode(x, 0, 'f32', new Uint8Array(new SharedArrayBuffer(8)), 0, 0), /bytes is over/);
});

test.skipIf(process.platform !== 'linux')('so are arrays over memory that another process may change', () => {
  const region = sharedMemory.create(4096);
  const peer = sharedMemory.open(region.name, 4096);
  const sum = native.sumCreate(bench.device, 'exact', 2, 32);
  const written = native.sumEncode(sum, 1, Int32Array.of(0), new Uint8Array(512), 0);
  for (const { memory } of [region, peer]) {
    const bytes = new Uint8Array(memory, 8);
    bytes[0] = 2; // Codes are checked, then read again: what the other process makes of one in between would be believed.
    expectRefused(() => native.sumAddEncoded(sum, 1, Int32Array.of(0), bytes, 0, written), /bytes is over memory of sharedMemory/);
    expectRefused(
      () => native.sumEncode(sum, 1, new Int32Array(memory, 4092), new Uint8Array(512), 0),
      /row is over memory of sharedMemory/,
    );
  }
  peer.release();
  region.release();
  expect(native.sumAddEncoded(sum, 0, new Int32Array(0), new Uint8Array(0), 0, 0)).toBeUndefined();
});

test('output over the row numbers that are read is refused', () => {
  const memory = new ArrayBuffer(4096);
  const row = new Int32Array(memory, 0, 2);
  row[1] = 1;
  const sum = native.sumCreate(bench.device, 'exact', 2, 32);
  expectRefused(() => native.sumEncode(sum, 2, row, new Uint8Array(memory), 0), /out overlaps row/);
  expectRefused(() => native.rowsEncode(x, 2, row, 'f32', new Uint8Array(memory), 7), /out overlaps row/);
  expect(Array.from(row)).toEqual([0, 1]);
  expect(native.rowsEncode(x, 2, row, 'f32', new Uint8Array(memory), 8)).toBe(256);
  // Behind what is written they may lie.
  const behind = new Int32Array(memory, 256, 2);
  behind.set([0, 1]);
  expect(native.rowsEncode(x, 2, behind, 'f32', new Uint8Array(memory), 0)).toBe(256);
});

/** Newer than the oldest Node that runs us, and than the types of this project. */
const transfer = (ArrayBuffer.prototype as { transfer?: () => ArrayBuffer }).transfer;
const megabytes = 2 ** 19; // floats: memory of its own, which is unmapped when it is freed

test.skipIf(!transfer)(
  'memory that JavaScript has transferred outlives its buffer and its device (where Node has ArrayBuffer.prototype.transfer)',
  () => {
    const other = new Workbench({ backend: 'cpu', isa: 'auto', threads: 2, cpus: null });
    for (const free of [(own: DeviceBuffer) => native.objectFree(own), () => other.close()]) {
      const own = other.buffer(1, megabytes);
      own.f32[megabytes - 1] = 7;
      const moved = new Float32Array(transfer!.call(own.f32.buffer));
      expect(own.f32.length).toBe(0);
      free(own);
      expectRefused(() => native.bufferLoad(own, 0, bench.source(Float32Array.of(1), 1, 1)), /buffer \(buffer\) was freed/);
      expect(moved[megabytes - 1]).toBe(7);
      moved.fill(3);
      expect(moved[0]).toBe(3);
    }
  },
);
