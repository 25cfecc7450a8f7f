import type { Activation, DeviceBuffer, Experts, KvCache, Op, RowSum, Table, Weight } from '@switchyard/native';
import type { TensorView } from '../checkpoint/tensor-view.ts';
import type { Rope } from './rope.ts';

/**
 * A model as data: what it holds and which ops run over it, before anything is allocated. A family describes itself as a graph; `compileModel` makes
 * native objects of it, and `inspectModel` only counts.
 */
export interface ModelGraph {
  readonly modelType: string;
  readonly hidden: number;
  readonly vocab: number;
  readonly layers: number;
  /** The checkpoint's own limit, in tokens. */
  readonly maxContext: number;
  readonly experts: number;
  readonly topK: number;
  readonly moe: readonly MoeNode[];
  /** Segment i ends with the router of MoE layer i; the last one ends with logits. */
  readonly segments: readonly (readonly OpRecipe[])[];
  readonly slots: readonly Slot[];
  readonly constants: readonly Constant[];
  readonly ropes: readonly Rope[];
  readonly matrices: readonly Matrix[];
  readonly tables: readonly Embedding[];
  readonly caches: readonly Cache[];
  readonly logits: Slot;
}

/** Encodes one op once every object exists. */
export type OpRecipe = (at: Handles) => Op;

export interface Handles {
  buffer(of: Slot | Constant | Rope): DeviceBuffer;
  weight(of: Matrix): Weight;
  table(of: Embedding): Table;
  kv(of: Cache): KvCache;
  experts(of: ExpertBank): Experts;
  /** Where expert contributions of the running layer are added, (maxRows, hidden). */
  readonly sum: RowSum;
  /** Exponent of the exact grid of a MoE layer. */
  grid(of: MoeNode): number;
  /** The nodes of a layer's experts as bits, i32 (1, experts), and how many nodes a token may have; null: any. */
  nodeLimit(of: MoeNode): { of: DeviceBuffer; limit: number } | null;
  /** Positions of a rope table. */
  readonly maxContext: number;
}

/** Activations, (rows of the batch or logit rows, width) f32 or i32, shared by all layers unless named per layer. */
export interface Slot {
  readonly name: string;
  readonly rows: 'batch' | 'logits';
  width: number;
}

/** Columns of a slot from `at` on. */
export interface Columns {
  readonly slot: Slot;
  readonly at: number;
}

/** A small f32 row read from the checkpoint: norm weights, biases, sinks. Float `at` onwards comes from `view`; the rest is zero. */
export interface Constant {
  readonly name: string;
  readonly part: Part;
  readonly width: number;
  readonly pieces: readonly { at: number; view: TensorView }[];
}

/** What a weight belongs to, for reports. */
export type Part = 'embedding' | 'attention' | 'dense' | 'shared' | 'router' | 'experts' | 'norms' | 'head';

/**
 * `router`: its input stays f32 in every numeric class, so that choosing experts never hangs on rounding. `absorbed`: as the class says, never quantised.
 * `linear`: as the class says, int8 where dense weights are.
 */
export type MatrixRole = 'router' | 'absorbed' | 'linear';

/** A weight [n, k] stacked from views along n. */
export interface Matrix {
  readonly name: string;
  readonly part: Part;
  readonly role: MatrixRole;
  readonly n: number;
  readonly k: number;
  readonly pieces: readonly { row: number; view: TensorView }[];
}

export interface Embedding {
  readonly view: TensorView;
}

/** One layer's KV cache: per token `kvHeads` keys of `kDim` and values of `vDim`; `vSharesK`: the value is the first `vDim` of the key, stored once. */
export interface Cache {
  readonly layer: number;
  readonly kvHeads: number;
  readonly kDim: number;
  readonly vDim: number;
  readonly vSharesK: boolean;
}

export interface ExpertViews {
  /** (inter, hidden), (inter, hidden), (hidden, inter) */
  readonly gate: TensorView;
  readonly up: TensorView;
  readonly down: TensorView;
  /** (1, inter), (1, inter), (1, hidden); all or none. */
  readonly gateBias: TensorView | null;
  readonly upBias: TensorView | null;
  readonly downBias: TensorView | null;
}

/** The experts of one layer. */
export interface ExpertBank {
  readonly layer: number;
  readonly hidden: number;
  readonly inter: number;
  readonly activation: Activation;
  /** Constants of the GPT-OSS activation; 0 for SiLU. */
  readonly alpha: number;
  readonly limit: number;
  readonly views: readonly ExpertViews[];
}

export interface MoeNode {
  readonly layer: number;
  readonly x: Slot;
  readonly ids: Slot;
  readonly weights: Slot;
  readonly bank: ExpertBank;
  /** Weight of the norm whose output the experts read, for the estimate of their size. */
  readonly inputNorm: Constant;
  readonly inputNormPlus: number;
  /** What a routing weight typically is: 1/topK times the routed scale. */
  readonly typicalWeight: number;
  /** Why the router cannot be kept on a few nodes of the plan; null: it can. */
  readonly limitsItself: string | null;
}
