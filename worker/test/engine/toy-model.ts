import type { Batch, DeviceBuffer, Native, RowSum } from '@switchyard/native';
import type { EngineConfig } from '@switchyard/proto';
import { laneRows } from '../../src/engine/lanes.ts';
import type { Model, ModelLane, MoeLayer, NumericClass } from '../../src/model/contract.ts';

/**
 * A model whose every number is a hash of what it should depend on: a row's logits are a function of all tokens before it, read through the paged cache, and of
 * its experts' sums. One wrong block, row, weight or order changes everything after it, and a step costs microseconds: schedules by the thousand can be tried.
 * It stands in for kernels, which have tests of their own.
 */
export interface ToyShape {
  experts: number;
  topK: number;
  moeLayers: number;
  kvBlocks: number;
  maxRows: number;
  maxSequences: number;
  maxLogitRows: number;
  maxContext: number;
  draftMax?: number;
  /** Three tokens of four follow from the one before, so that texts repeat themselves; else hardly any text does. */
  habits?: boolean;
}

const HIDDEN = 4;
const VOCAB = 97;
const BLOCK = 16;
const UNWRITTEN = -1;

interface ToySum extends RowSum {
  values: Int32Array;
}

const numericClass: NumericClass = {
  activations: 'f32',
  experts: 'stored',
  dense: 'stored',
  sum: 'exact',
  wire: 'f32',
  name: 'toy',
  id: 3,
};

function mix(a: number, b: number): number {
  let h = Math.imul(a ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(b ^ (a >>> 15), 0xc2b2ae35);
  h ^= h >>> 13;
  h = Math.imul(h, 0x27d4eb2f);
  return (h ^ (h >>> 16)) >>> 0;
}

function buffer(rows: number, width: number): DeviceBuffer {
  return { type: 'buffer', rows, width, f32: new Float32Array(rows * width), i32: new Int32Array(rows * width) };
}

function sumOf(maxRows: number): ToySum {
  return { type: 'sum', maxRows, hidden: HIDDEN, values: new Int32Array(maxRows * HIDDEN) };
}

/** What expert `expert` of layer `layer` adds to a row, times its weight: small integers. */
function contribution(layer: number, expert: number, x: Float32Array, at: number, weight: number, h: number): number {
  return mix(mix(layer * 1000 + expert, x[at + h]), Math.round(weight * 1024)) & 0xffff;
}

/** @param hosted [moeLayer] experts of this worker; null: all. With some elsewhere the model has the lanes of a worker whose rows leave. */
export function toyModel(shape: ToyShape, hosted: number[][] | null): Model {
  const { experts, topK, moeLayers, kvBlocks, maxRows, maxSequences, maxLogitRows, maxContext, draftMax = 0 } = shape;
  const cache = Array.from({ length: moeLayers + 1 }, () => new Float64Array(kvBlocks * BLOCK).fill(UNWRITTEN));
  const logits = buffer(maxLogitRows, VOCAB);
  const rowsOfLanes = hosted === null ? [maxRows] : laneRows({ maxBatchRows: maxRows, maxSequences, draftMax });
  const lanes = rowsOfLanes.map((rows) => toyLane({ ...shape, maxRows: rows }, hosted, cache, logits));
  return {
    ...lanes[0],
    lanes,
    shape: {
      modelType: 'toy',
      vocab: VOCAB,
      hidden: HIDDEN,
      layers: moeLayers + 1,
      moeLayers: lanes[0].moe.map(({ layer }) => layer),
      experts,
      topK,
      maxContext,
      blockTokens: BLOCK,
      kvBlocks,
      kvBytesPerToken: 8 * (moeLayers + 1),
      numericClass,
    },
    device: { type: 'device' },
    ropeVariant: (maxLength) => (maxLength > 100 ? 1 : 0),
    residentBytes: 0,
    times: () => ({}),
    writtenFile: () => null,
    close: () => {},
  };
}

/** @param cache [segment][place] written once per place and segment, read by every lane */
function toyLane(shape: ToyShape, hosted: number[][] | null, cache: Float64Array[], logits: DeviceBuffer): ModelLane {
  const { experts, topK, moeLayers, maxRows, maxSequences, maxLogitRows, maxContext } = shape;
  const x = buffer(maxRows, HIDDEN);
  const sum = sumOf(maxRows);
  const state = new Uint32Array(maxRows);
  const moe: MoeLayer[] = Array.from({ length: moeLayers }, (_, layer) => ({
    layer: layer + 1,
    x,
    ids: buffer(maxRows, topK),
    weights: buffer(maxRows, topK),
    sum,
    experts: { type: 'experts', slots: experts, layer } as MoeLayer['experts'],
    slotOf: Int32Array.from({ length: experts }, (_unused, e) => (hosted === null || hosted[layer].includes(e) ? e : -1)),
    grid: layer,
  }));

  const runSegment = (index: number, batch: Batch) => {
    for (let s = 0; s < batch.seqs; s++) {
      for (let row = batch.seqRow[s]; row < batch.seqRow[s + 1]; row++) {
        const position = batch.seqPos[s] + row - batch.seqRow[s];
        if (index === 0) state[row] = mix(batch.token[row], batch.seqVariant[s]);
        else for (let h = 0; h < HIDDEN; h++) state[row] = mix(state[row], sum.values[row * HIDDEN + h]);
        const place = (p: number) => batch.block[s * batch.maxBlocks + Math.floor(p / BLOCK)] * BLOCK + (p % BLOCK);
        cache[index][place(position)] = state[row];
        let seen = index;
        for (let p = 0; p <= position; p++) {
          const value = cache[index][place(p)];
          if (value === UNWRITTEN) throw new Error(`position ${p} of the cache was never written`);
          seen = mix(seen, value);
        }
        state[row] = seen;
        if (index < moeLayers) route(index, row);
      }
    }
    if (index < moeLayers) return;
    for (let i = 0; i < batch.logitRows; i++) {
      const row = batch.logitRow[i];
      for (let v = 0; v < VOCAB; v++) logits.f32[i * VOCAB + v] = (mix(state[row], v) % 4096) / 256;
      if (shape.habits && mix(state[row], 55) % 4 !== 0) logits.f32[i * VOCAB + ((batch.token[row] * 5 + 1) % 12)] += 16;
    }
  };

  const route = (layer: number, row: number) => {
    for (let h = 0; h < HIDDEN; h++) x.f32[row * HIDDEN + h] = mix(state[row], h) & 0xfff;
    let expert = state[row] % experts;
    const step = 1 + (mix(state[row], 77) % (experts - 1));
    for (let k = 0; k < topK; k++) {
      const { ids, weights } = moe[layer];
      // A step that shares a factor with the number of experts would come round too early.
      while (ids.i32.subarray(row * topK, row * topK + k).includes(expert)) expert = (expert + 1) % experts;
      ids.i32[row * topK + k] = expert;
      weights.f32[row * topK + k] = (1 + (mix(state[row], 100 + k) % 255)) / 256;
      expert = (expert + step) % experts;
    }
  };

  const runWhole = (batch: Batch) => {
    for (let layer = 0; layer < moeLayers; layer++) {
      runSegment(layer, batch);
      sum.values.fill(0, 0, batch.rows * HIDDEN);
      const { ids, weights } = moe[layer];
      for (let i = 0; i < batch.rows * topK; i++) {
        const row = Math.floor(i / topK);
        for (let h = 0; h < HIDDEN; h++)
          sum.values[row * HIDDEN + h] += contribution(layer, ids.i32[i], x.f32, row * HIDDEN, weights.f32[i], h);
      }
    }
    runSegment(moeLayers, batch);
  };

  const maxBlocks = Math.ceil(maxContext / BLOCK);
  return {
    maxRows,
    moe,
    runSegment,
    runWhole: hosted === null ? runWhole : null,
    logits,
    createBatch: () => ({
      rows: 0,
      seqs: 0,
      logitRows: 0,
      maxBlocks,
      token: new Int32Array(maxRows),
      seqRow: new Int32Array(maxSequences + 1),
      seqPos: new Int32Array(maxSequences),
      seqVariant: new Int32Array(maxSequences),
      block: new Int32Array(maxSequences * maxBlocks),
      logitRow: new Int32Array(maxLogitRows),
      rowStatus: new Int32Array(maxRows),
      failedRows: 0,
    }),
    rowFailure: (segment, status) => `segment ${segment} of the toy says ${status}`,
  };
}

/** What an assignment says of the engine. */
export function toyEngine({ maxRows, maxSequences }: Pick<ToyShape, 'maxRows' | 'maxSequences'>): EngineConfig {
  return {
    numericClass: 'f32',
    expertDtype: 'stored',
    denseDtype: 'stored',
    sumMode: 'exact',
    maxContext: 0,
    kvBlocks: 0,
    kvBytes: 0,
    maxBatchRows: maxRows,
    maxSequences,
    prefixCache: true,
    rowDeadlineMs: 10_000,
    lossy: '',
    replayRouting: '',
    draftMax: 0,
  };
}

/** The native calls of the exchange, for the toy's objects. */
export const toyNative = {
  deviceOpen: () => ({ type: 'device' }),
  deviceDescribe: () => ({ backend: 'toy', isa: 'none', threads: 1, abi: 0 }),
  deviceClose: () => {},
  bufferCreate: (_device, rows, width) => buffer(rows, width),
  sumCreate: (_device, _mode, maxRows) => sumOf(maxRows),
  objectFree: () => {},
  sumClear: (sum, rows) => void (sum as ToySum).values.fill(0, 0, rows * HIDDEN),
  sumEncodedMax: (rows) => rows * HIDDEN * 4,
  sumEncode: (sum, rows, row, out, offset) => {
    const view = new DataView(out.buffer, out.byteOffset + offset);
    for (let i = 0; i < rows * HIDDEN; i++) {
      view.setInt32(i * 4, (sum as ToySum).values[row[Math.floor(i / HIDDEN)] * HIDDEN + (i % HIDDEN)], true);
    }
    return rows * HIDDEN * 4;
  },
  sumAddEncoded: (sum, rows, row, bytes, offset, length) => {
    if (length !== rows * HIDDEN * 4) throw new Error(`${length} bytes of sums for ${rows} rows`);
    const view = new DataView(bytes.buffer, bytes.byteOffset + offset);
    for (let i = 0; i < rows * HIDDEN; i++)
      (sum as ToySum).values[row[Math.floor(i / HIDDEN)] * HIDDEN + (i % HIDDEN)] += view.getInt32(i * 4, true);
  },
  rowsEncode: (x, rows, row, _dtype, out, offset) => {
    const view = new DataView(out.buffer, out.byteOffset + offset);
    for (let i = 0; i < rows * HIDDEN; i++) view.setFloat32(i * 4, x.f32[row[Math.floor(i / HIDDEN)] * HIDDEN + (i % HIDDEN)], true);
    return rows * HIDDEN * 4;
  },
  rowsDecode: (x, rows, _dtype, bytes, offset) => {
    const view = new DataView(bytes.buffer, bytes.byteOffset + offset);
    for (let i = 0; i < rows * HIDDEN; i++) x.f32[i] = view.getFloat32(i * 4, true);
  },
  expertsReserve: () => {},
  expertsRun: (experts, x, pairs, row, slot, weight, _grid, sum) => {
    const { layer } = experts as unknown as { layer: number };
    for (let p = 0; p < pairs; p++) {
      if (slot[p] < 0) throw new Error('an expert that is not here');
      for (let h = 0; h < HIDDEN; h++)
        (sum as ToySum).values[row[p] * HIDDEN + h] += contribution(layer, slot[p], x.f32, row[p] * HIDDEN, weight[p], h);
    }
  },
} satisfies Partial<Native> as unknown as Native;
