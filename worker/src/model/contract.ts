import type { Batch, Device, DeviceBuffer, Experts, RowSum } from '@switchyard/native';
import type { Backend, RowDType } from '@switchyard/proto';
import type { NodeLimit } from './node-limit.ts';

/**
 * What the step loop needs from a model, whatever its family. A model is compiled once, at load, into *segments*: native programs that run between the
 * points where rows leave for experts. With m MoE layers there are m + 1 segments: segment 0 is embedding .. router of the first MoE layer, segment i ends
 * with the router of MoE layer i, the last ends with logits. Dense layers lie inside segments.
 *
 * With every expert local, `whole` is all of it (segments and experts) as one program.
 */
export interface Model extends ModelLane {
  readonly shape: ModelShape;
  /** Where the model lives; the expert server creates its own row buffers and sums there. */
  readonly device: Device;
  /** Never empty; the model itself is the first of them. */
  readonly lanes: readonly ModelLane[];
  /** Rope variant of a sequence that may grow to `maxLength` tokens (LongRoPE); part of the prefix cache's key. */
  ropeVariant(maxLength: number): number;
  readonly residentBytes: number;
  /** Seconds by op kind, summed over programs. */
  times(): Record<string, number>;
  /** A file of the checkpoint that steps go on reading and that somebody has written to since the model was loaded; null: none. */
  writtenFile(): string | null;
  close(): void;
}

/**
 * One set of activations over the model's weights and caches, so that one lane's batch can be between two segments while another runs. Segments of different
 * lanes take turns: a call returns when its work is done.
 */
export interface ModelLane {
  /** Rows of a batch at most. */
  readonly maxRows: number;
  readonly moe: readonly MoeLayer[];
  /** Runs segment i for the batch; segment i > 0 begins by adding moe[i-1].sum into the residual stream. */
  runSegment(index: number, batch: Batch): void;
  /** All segments with local experts, in one native call. Null unless this worker hosts every expert. */
  readonly runWhole: ((batch: Batch) => void) | null;
  /** What `status` (batch.rowStatus of a row, not 0) means after a run of this segment, or of the whole: the layer and what went wrong there. */
  rowFailure(segment: number | null, status: number): string;
  /** (maxLogitRows, vocab) f32, rows in the order of batch.logitRow. Shared by all lanes: valid until another lane's last segment runs. */
  readonly logits: DeviceBuffer;
  /** A fresh batch descriptor of the size the lane was compiled for. */
  createBatch(): Batch;
}

export interface ModelShape {
  modelType: string;
  vocab: number;
  hidden: number;
  layers: number;
  moeLayers: number[];
  experts: number;
  topK: number;
  maxContext: number;
  blockTokens: number;
  kvBlocks: number;
  kvBytesPerToken: number;
  numericClass: NumericClass;
}

export interface MoeLayer {
  /** Index in the model. */
  readonly layer: number;
  /** Input rows of the experts, (maxRows, hidden). The buffer is shared by all layers: valid until the lane's next segment runs. */
  readonly x: DeviceBuffer;
  /** i32 (maxRows, topK) expert ids in selection order and f32 (maxRows, topK) weights; own buffers per layer, valid until the lane's next step. */
  readonly ids: DeviceBuffer;
  readonly weights: DeviceBuffer;
  /** Where contributions are added; the segment that follows reads it. Shared by all layers of the lane. */
  readonly sum: RowSum;
  readonly experts: Experts;
  /** expert id -> slot in `experts`, or -1 when another worker hosts it. */
  readonly slotOf: Int32Array;
  /** Exponent of the layer's exact grid: contributions are multiples of 2^grid. */
  readonly grid: number;
}

/**
 * A numeric class names everything that decides the bits of a row. Rows of different classes never meet in one request in exact mode.
 * `activations`: what linear inputs are rounded to. `experts`/`dense`: how weights are held.
 */
export interface NumericClass {
  activations: 'f32' | 'bf16';
  experts: 'stored' | 'int8' | 'int4';
  dense: 'stored' | 'int8';
  sum: 'exact' | 'fast';
  /** Row dtype on the wire: lossless for the class, unless the class is named after it. */
  wire: RowDType;
  /**
   * e.g. "bf16", "f32", "bf16+int8-experts", "bf16+node-limit-2"; and its id in frames: a hash byte of the part that decides what experts compute. A frame has the
   * row dtype beside it, and a node limit is the home's affair.
   */
  name: string;
  id: number;
}

export interface LoadOptions {
  dir: string;
  /** hosted[i] = expert ids of MoE layer i to make resident; null: all. */
  hosted: readonly (readonly number[])[] | null;
  numericClass: {
    activations: 'f32' | 'bf16' | 'auto';
    experts: 'stored' | 'int8' | 'int4';
    dense: 'stored' | 'int8';
    sum: 'exact' | 'fast';
    /** Lossy: quantises rows to other workers. */
    wire?: 'int8' | 'fp8' | null;
  };
  /** Lossy: keeps a token on a few nodes. */
  nodeLimit?: NodeLimit | null;
  device: { backend: Backend; isa: 'auto' | 'avx512' | 'avx2'; threads: number; cpus: number[] | null };
  maxBatchRows: number;
  /** Rows of each lane, `maxBatchRows` at most; null: one lane of `maxBatchRows`. */
  laneRows: readonly number[] | null;
  maxSequences: number;
  maxLogitRows: number;
  /** 0: the checkpoint's own limit. */
  maxContext: number;
  /** KV memory: blocks of 16 tokens; 0: derive from kvBytes. */
  kvBlocks: number;
  kvBytes: number;
  onProgress: (done: number, total: number, what: string) => void;
  signal: AbortSignal | null;
}

/** worker/src/model/load.ts: `loadModel(options: LoadOptions): Promise<Model>`. Throws `bad_checkpoint` naming file, tensor and offset. */
