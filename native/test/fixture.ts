import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { expect } from 'vitest';
import type {
  Batch,
  Device,
  DeviceBuffer,
  DeviceOptions,
  MappedFile,
  NativeStatus,
  Op,
  Source,
  Weight,
  WeightFormat,
} from '../src/index.ts';
import { NativeError, native } from '../src/index.ts';

/** Every way to run an op on this machine; all must agree. */
export const deviceOptions: DeviceOptions[] = [
  { backend: 'cpu-ref', isa: 'auto', threads: 1, cpus: null },
  ...(['avx2', 'avx512'] as const).flatMap((isa) =>
    [1, 2, 3].map((threads): DeviceOptions => ({ backend: 'cpu', isa, threads, cpus: null })).filter(opens),
  ),
];

function opens(options: DeviceOptions): boolean {
  try {
    native.deviceClose(native.deviceOpen(options));
    return true;
  } catch (error) {
    // This processor lacks the instruction set. Any other failure must not leave its tests out.
    if (error instanceof NativeError && error.status === 'unsupported') return false;
    throw error;
  }
}

export const nameOf = (of: DeviceOptions): string => `${of.backend} ${of.isa} ${of.threads}`;

/** A fixed stream in [0, 1) from a seed (mulberry32). */
export function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** Roughly normal numbers. */
export function normals(next: () => number, count: number, deviation = 1): Float32Array {
  return Float32Array.from({ length: count }, () => (next() + next() + next() + next() - 2) * 1.7 * deviation);
}

/** A device and what tests put on it. `close` frees everything, files too. */
export class Workbench {
  readonly device: Device;
  private readonly folder = mkdtempSync(path.join(os.tmpdir(), 'switchyard-native-'));
  private readonly files: MappedFile[] = [];

  constructor(options: DeviceOptions) {
    this.device = native.deviceOpen(options);
  }

  buffer(rows: number, width: number, values?: ArrayLike<number>): DeviceBuffer {
    const buffer = native.bufferCreate(this.device, rows, width);
    if (values) buffer.f32.set(values);
    return buffer;
  }

  ints(values: readonly number[]): DeviceBuffer {
    const buffer = native.bufferCreate(this.device, 1, values.length);
    buffer.i32.set(values);
    return buffer;
  }

  /** A mapped file of f32 values as a dense [n, k] source. */
  source(values: Float32Array, n: number, k: number): Source {
    const name = path.join(this.folder, `${this.files.length}.bin`);
    writeFileSync(name, new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
    const file = native.fileMap(name);
    this.files.push(file);
    return { file, offset: 0, strideN: k, strideK: 1, dtype: 'f32', n, k, scale: null };
  }

  weight(format: WeightFormat, values: Float32Array, n: number, k: number): Weight {
    const weight = native.weightCreate(this.device, format, n, k);
    native.weightSet(weight, 0, this.source(values, n, k));
    return weight;
  }

  /** Runs ops once for a batch of one sequence at position 0, or the batch given. */
  run(ops: Op[], rows: number, batch: Batch = oneSequence(rows)): void {
    const program = native.programCreate(this.device, ops, Math.max(rows, batch.token.length), batch.seqPos.length, batch.maxBlocks * 16);
    native.programRun(program, batch);
    native.programFree(program);
  }

  close(): void {
    native.deviceClose(this.device);
    for (const file of this.files) native.fileUnmap(file);
    rmSync(this.folder, { recursive: true, force: true });
  }
}

export function oneSequence(rows: number): Batch {
  return batchOf([{ position: 0, rows }]);
}

/** Sequences one after the other; sequence s owns the blocks s, s + seqs, s + 2*seqs, ... so that none are adjacent. */
export function batchOf(sequences: readonly { position: number; rows: number; variant?: number }[], spareBlocks = 0): Batch {
  const rows = sequences.reduce((sum, each) => sum + each.rows, 0);
  const blocks = Math.max(...sequences.map((each) => Math.ceil((each.position + each.rows) / 16))) + spareBlocks;
  const batch = native.batchCreate(rows, sequences.length, blocks, rows);
  batch.rows = rows;
  batch.seqs = sequences.length;
  sequences.forEach(({ position, rows, variant = 0 }, s) => {
    batch.seqRow[s + 1] = batch.seqRow[s]! + rows;
    batch.seqPos[s] = position;
    batch.seqVariant[s] = variant;
    for (let b = 0; b < blocks; b++) batch.block[s * blocks + b] = s + b * sequences.length;
  });
  return batch;
}

function refusal(call: () => unknown): NativeError {
  try {
    call();
  } catch (error) {
    expect(error).toBeInstanceOf(NativeError);
    return error as NativeError;
  }
  throw new Error('the call was not refused');
}
/** The call must throw a NativeError of this status. */
export function expectRefused(call: () => unknown, message: RegExp, status: NativeStatus = 'invalid_argument'): void {
  const error = refusal(call);
  expect(error.message).toMatch(message);
  expect(error.status).toBe(status);
}
