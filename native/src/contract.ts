/**
 * The native boundary, described in one place. `native/include/switchyard.h` says what every call means; this says how it looks from TypeScript.
 * Handles are opaque and tagged. Every property is present; `null` means absent, so `undefined` always is a bug. Failures throw `NativeError`.
 */
export type DType = 'f32' | 'f16' | 'bf16' | 'f8_e4m3' | 'mxfp4' | 'i32';
/** How rows travel between workers. */
export type RowDType = 'f32' | 'bf16' | 'int8' | 'fp8';
export type WeightFormat = 'f32' | 'f16' | 'bf16' | 'bf16-x16' | 'int8' | 'int4';
export type SumMode = 'exact' | 'fast';
export type Activation = 'silu' | 'gpt_oss';

export interface Device {
  readonly type: 'device';
}
export interface MappedFile {
  readonly type: 'file';
  readonly path: string;
  readonly bytes: number;
}
/** `f32`/`i32` are views of the same memory, `rows * width` elements (CPU devices). */
export interface DeviceBuffer {
  readonly type: 'buffer';
  readonly rows: number;
  readonly width: number;
  readonly f32: Float32Array;
  readonly i32: Int32Array;
}
export interface Table {
  readonly type: 'table';
}
export interface Weight {
  readonly type: 'weight';
  readonly n: number;
  readonly k: number;
  readonly format: WeightFormat;
}
export interface Experts {
  readonly type: 'experts';
  readonly slots: number;
}
export interface KvCache {
  readonly type: 'kv';
  readonly blocks: number;
}
export interface RowSum {
  readonly type: 'sum';
  readonly maxRows: number;
  readonly hidden: number;
}
export interface Program {
  readonly type: 'program';
}
export type NativeObject = DeviceBuffer | Table | Weight | Experts | KvCache | RowSum;

/** See `sy_source`. Offsets and strides in elements except where the header says bytes. */
export interface Source {
  file: MappedFile;
  offset: number;
  strideN: number;
  strideK: number;
  dtype: DType;
  n: number;
  k: number;
  scale: { file: MappedFile; offset: number; stride: number; blockN: number; blockK: number; n0: number; k0: number } | null;
}

export interface DeviceOptions {
  /** `cuda:N`: experts live on GPU N, all else on the CPU. `cuda-emulated`: the GPU's kernels thread by thread on the CPU, for tests. */
  backend: 'cpu' | 'cpu-ref' | 'cuda' | 'cuda-emulated' | `cuda:${number}`;
  isa: 'auto' | 'avx512' | 'avx2';
  threads: number;
  /** CPU numbers to pin the threads to, `threads` of them, or null. */
  cpus: number[] | null;
}

export interface DeviceDescription {
  backend: string;
  isa: string;
  threads: number;
  abi: number;
  /** Name, memory and identity of the GPU that holds the experts; the identity of an emulated one is empty. */
  accelerator?: string;
  acceleratorBytes?: number;
  acceleratorId?: string;
}

export interface ExpertsOptions {
  slots: number;
  hidden: number;
  inter: number;
  format: WeightFormat;
  activation: Activation;
  hasBias: boolean;
  alpha: number;
  limit: number;
}
export interface ExpertSources {
  gate: Source;
  up: Source;
  down: Source;
  gateBias: Source | null;
  upBias: Source | null;
  downBias: Source | null;
}

/** One encoded op: `kind`, `flags`, up to 6 objects (null = none), up to 10 ints, up to 6 floats. Built only by the functions in `ops.ts`. */
export interface Op {
  kind: number;
  flags: number;
  objects: (NativeObject | null)[];
  ints: number[];
  floats: number[];
}

/** Preallocated batch descriptor; fill the arrays in place, then set the counts. `maxBlocks` is the row stride of `block`. */
export interface Batch {
  rows: number;
  seqs: number;
  logitRows: number;
  readonly maxBlocks: number;
  readonly token: Int32Array;
  readonly seqRow: Int32Array;
  readonly seqPos: Int32Array;
  readonly seqVariant: Int32Array;
  readonly block: Int32Array;
  readonly logitRow: Int32Array;
  /** Written by every run: 0, or 1 + the number of the first op that could not complete the row, because a number of it is NaN or out of range. */
  readonly rowStatus: Int32Array;
  /** Rows of the last run whose status is not 0. */
  readonly failedRows: number;
}

export interface Native {
  abiVersion(): number;
  deviceOpen(options: DeviceOptions): Device;
  deviceClose(device: Device): void;
  deviceDescribe(device: Device): DeviceDescription;

  fileMap(path: string): MappedFile;
  fileUnmap(file: MappedFile): void;

  bufferCreate(device: Device, rows: number, width: number): DeviceBuffer;
  bufferLoad(buffer: DeviceBuffer, firstFloat: number, source: Source): void;
  tableCreate(device: Device, source: Source): Table;
  weightCreate(device: Device, format: WeightFormat, n: number, k: number): Weight;
  weightSet(weight: Weight, firstRow: number, source: Source): void;

  expertsCreate(device: Device, options: ExpertsOptions): Experts;
  expertsSet(experts: Experts, slot: number, sources: ExpertSources): void;
  expertsClear(experts: Experts, slot: number): void;
  expertsProbe(experts: Experts, slot: number, x: Float32Array, rows: number, out: Float32Array): void;
  /** Takes the workspace of calls with up to so many pairs and rows, so that none of them allocates. */
  expertsReserve(experts: Experts, pairs: number, rows: number): void;
  /** Arrays are read up to `pairs` entries. */
  expertsRun(
    experts: Experts,
    x: DeviceBuffer,
    pairs: number,
    row: Int32Array,
    slot: Int32Array,
    weight: Float32Array,
    grid: number,
    sum: RowSum,
  ): void;

  kvCreate(device: Device, blocks: number, kvHeads: number, kDim: number, vDim: number, dtype: 'f32' | 'bf16', vSharesK: boolean): KvCache;

  sumCreate(device: Device, mode: SumMode, maxRows: number, hidden: number): RowSum;
  sumClear(sum: RowSum, rows: number): void;
  sumEncodedMax(rows: number, hidden: number): number;
  /** Writes into `out` at `offset`, returns the bytes written. */
  sumEncode(sum: RowSum, rows: number, row: Int32Array, out: Uint8Array, offset: number): number;
  sumAddEncoded(sum: RowSum, rows: number, row: Int32Array, bytes: Uint8Array, offset: number, length: number): void;
  rowsEncode(x: DeviceBuffer, rows: number, row: Int32Array, dtype: RowDType, out: Uint8Array, offset: number): number;
  rowsDecode(x: DeviceBuffer, rows: number, dtype: RowDType, bytes: Uint8Array, offset: number, length: number): void;

  objectFree(object: NativeObject): void;

  batchCreate(maxRows: number, maxSeqs: number, maxBlocks: number, maxLogitRows: number): Batch;
  programCreate(device: Device, ops: readonly Op[], maxRows: number, maxSeqs: number, maxContext: number): Program;
  programRun(program: Program, batch: Batch): void;
  /** Seconds by op kind since creation. */
  programTimes(program: Program): Record<string, number>;
  programFree(program: Program): void;
}
