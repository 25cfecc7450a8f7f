import type { Activation } from '@switchyard/native';
import { ops } from '@switchyard/native';
import { limits } from '@switchyard/proto';
import { badCheckpoint } from '../checkpoint/bad-checkpoint.ts';
import type { TensorView } from '../checkpoint/tensor-view.ts';
import type { DecoderConfig } from './decoder-config.ts';
import type {
  Cache,
  Columns,
  Constant,
  Embedding,
  ExpertBank,
  Matrix,
  MatrixRole,
  ModelGraph,
  MoeNode,
  OpRecipe,
  Part,
  Slot,
} from './graph.ts';
import type { Rope } from './rope.ts';

type Sizes = Pick<DecoderConfig, 'hidden' | 'vocab' | 'layers' | 'maxContext'>;

/** Rows of a norm: `groups` groups of `width` columns, `stride` apart in `x`; written `outStride` apart. */
export interface NormSpec {
  name: string;
  x: Columns;
  out: Columns;
  kind: 'rms' | 'layer' | 'l2';
  eps: number;
  width: number;
  groups?: number;
  stride?: number;
  outStride?: number;
  /** (width): one for all groups, or one for each. */
  weights?: readonly TensorView[];
  bias?: TensorView;
  /** Added to the weight: 1 for zero-centred norms. */
  weightPlus?: number;
  logitRows?: boolean;
}

export interface LinearSpec {
  name: string;
  part: Part;
  role?: MatrixRole;
  x: Columns;
  out: Columns;
  /** Stacked along n; column `out.at` onwards receives them in this order. */
  weights: readonly TensorView[];
  /** One per weight, null where it has none. */
  biases?: readonly (TensorView | null)[];
  /** `add`: out += scale * (W x + b). */
  mode?: 'store' | 'add';
  scale?: number;
  logitRows?: boolean;
}

export interface RoutingRule {
  score: 'softmax' | 'softmax_chosen' | 'sigmoid' | 'sparse_mixer' | 'factored';
  /** Divide the chosen weights by their sum (+ renormEps). */
  renorm: boolean;
  renormEps?: number;
  scale?: number;
  groups?: { count: number; kept: number; score: 'max' | 'top_two'; maskZero: boolean };
  /** SparseMixer's tolerance. */
  jitterEps?: number;
}

export interface MoeSpec {
  layer: number;
  /** Weight of the norm that wrote `normed`, which router and experts read. */
  inputNorm: Constant;
  inputNormPlus?: number;
  /** (experts, hidden); for `factored` scores the gates of groups and slots: (groups, hidden), (experts / groups, hidden). */
  router: TensorView | readonly [TensorView, TensorView];
  routerBias?: TensorView;
  /** (experts), added to scores when choosing only. */
  selectBias?: TensorView;
  topK: number;
  rule: RoutingRule;
  bank: ExpertBank;
  /** Output of the shared experts, added before the one rounding. */
  shared: Slot | null;
  /** Factor of the layer's output in the residual stream. */
  multiplier?: number;
}

/** Columns of a slot, from `at` on. */
export function columns(slot: Slot, at = 0): Columns {
  return { slot, at };
}

/** Collects a model's objects and ops in the order in which they run. Every method appends one op of `switchyard.h`, whose comment says what it computes. */
export class GraphBuilder {
  /** The residual stream, (rows, hidden). */
  readonly residual: Slot;
  /** What a block reads: the normed residual, (rows, hidden). */
  readonly normed: Slot;
  private readonly modelType: string;
  private readonly sizes: Sizes;
  private readonly slots = new Map<string, Slot>();
  private readonly constants: Constant[] = [];
  private readonly ropes: Rope[] = [];
  private readonly matrices: Matrix[] = [];
  private readonly tables: Embedding[] = [];
  private readonly caches: Cache[] = [];
  private readonly moe: MoeNode[] = [];
  /** Of all layers so far. */
  private experts = 0;
  private readonly segments: OpRecipe[][] = [[]];

  constructor(modelType: string, sizes: Sizes) {
    this.modelType = modelType;
    this.sizes = sizes;
    this.residual = this.slot('residual', sizes.hidden);
    this.normed = this.slot('normed', sizes.hidden);
  }

  /** Activations by name: one buffer for all who name it, as wide as the widest asks. */
  slot(name: string, width: number, rows: Slot['rows'] = 'batch'): Slot {
    const slot = this.slots.get(name) ?? { name, rows, width };
    slot.width = Math.max(slot.width, width);
    this.slots.set(name, slot);
    return slot;
  }

  embed(view: TensorView, scale = 1): void {
    const table: Embedding = { view };
    this.tables.push(table);
    this.emit((at) => ops.embed({ out: at.buffer(this.residual), table: at.table(table), width: view.k, scale }));
  }

  /** Returns the weight as it is kept, for the estimate of what experts read. */
  norm(spec: NormSpec): Constant | null {
    const { x, out, kind, eps, width, groups = 1, stride = width, outStride = stride, weightPlus = 0, logitRows = false } = spec;
    const weight = spec.weights === undefined ? null : this.constant(spec.name, 'norms', spec.weights);
    const bias = spec.bias === undefined ? null : this.constant(`${spec.name}.bias`, 'norms', [spec.bias]);
    this.emit((at) =>
      ops.norm({
        x: at.buffer(x.slot),
        out: at.buffer(out.slot),
        weight: weight && at.buffer(weight),
        bias: bias && at.buffer(bias),
        groups,
        width,
        xOff: x.at,
        xStride: stride,
        outOff: out.at,
        outStride,
        kind,
        weightStride: (spec.weights?.length ?? 1) > 1 ? width : 0,
        eps,
        weightPlus,
        logitRows,
      }),
    );
    return weight;
  }

  linear(spec: LinearSpec): void {
    const { name, part, role = 'linear', x, out, weights, biases, mode = 'store', scale = 1, logitRows = false } = spec;
    const matrix = this.matrix(name, part, role, weights);
    const bias = biases?.some((b) => b !== null)
      ? this.constant(
          `${name}.bias`,
          part,
          biases,
          weights.map((w) => w.n),
        )
      : null;
    this.emit((at) =>
      ops.linear({
        x: at.buffer(x.slot),
        out: at.buffer(out.slot),
        weight: at.weight(matrix),
        bias: bias && at.buffer(bias),
        xOff: x.at,
        outOff: out.at,
        mode,
        scale,
        logitRows,
      }),
    );
  }

  /** Per head h: out_h = weights[h] x_h, with x_h `xStride` and out_h `outStride` columns apart. */
  headLinear(spec: {
    name: string;
    part: Part;
    x: Columns;
    xStride: number;
    out: Columns;
    outStride: number;
    weights: readonly TensorView[];
  }): void {
    const { name, part, x, xStride, out, outStride, weights } = spec;
    const matrix = this.matrix(name, part, 'absorbed', weights);
    this.emit((at) =>
      ops.headLinear({
        x: at.buffer(x.slot),
        out: at.buffer(out.slot),
        weight: at.weight(matrix),
        heads: weights.length,
        xOff: x.at,
        xStride,
        outOff: out.at,
        outStride,
        outDim: weights[0]!.n,
      }),
    );
  }

  rope(rope: Rope, x: Columns, heads: number, stride: number): void {
    if (!this.ropes.includes(rope)) this.ropes.push(rope);
    this.emit((at) =>
      ops.rope({
        x: at.buffer(x.slot),
        table: at.buffer(rope),
        heads,
        off: x.at,
        stride,
        rot: rope.rotated,
        layout: rope.interleaved ? 'interleaved' : 'half',
        maxPos: at.maxContext,
      }),
    );
  }

  clamp(x: Columns, width: number, limit: number): void {
    this.emit((at) => ops.clamp({ x: at.buffer(x.slot), off: x.at, width, lo: -limit, hi: limit }));
  }

  cache(cache: Cache): Cache {
    this.caches.push(cache);
    return cache;
  }

  kvWrite(cache: Cache, k: Columns, kStride: number, v: Columns | null, vStride: number): void {
    this.emit((at) =>
      ops.kvWrite({
        k: at.buffer(k.slot),
        v: v && at.buffer(v.slot),
        kv: at.kv(cache),
        kOff: k.at,
        kStride,
        vOff: v?.at ?? 0,
        vStride,
      }),
    );
  }

  attention(spec: {
    cache: Cache;
    q: Columns;
    qStride: number;
    out: Columns;
    outStride: number;
    heads: number;
    scale: number;
    /** Keys visible besides the causal mask: 0 means all. */
    window?: number;
    chunk?: number;
    /** (heads), one more score per head. */
    sinks?: TensorView;
  }): void {
    const { cache, q, qStride, out, outStride, heads, scale, window = 0, chunk = 0 } = spec;
    const sinks = spec.sinks === undefined ? null : this.constant(`layers.${cache.layer}.sinks`, 'attention', [spec.sinks]);
    this.emit((at) =>
      ops.attention({
        q: at.buffer(q.slot),
        out: at.buffer(out.slot),
        kv: at.kv(cache),
        sinks: sinks && at.buffer(sinks),
        heads,
        qOff: q.at,
        qStride,
        outOff: out.at,
        outStride,
        window,
        chunk,
        scale,
      }),
    );
  }

  gatedAct(x: Slot, width: number, out: Slot, kind: Activation = 'silu', alpha = 0, limit = 0): void {
    this.emit((at) =>
      ops.gatedAct({ x: at.buffer(x), out: at.buffer(out), width, gateOff: 0, upOff: width, step: 1, outOff: 0, kind, alpha, limit }),
    );
  }

  /** x *= sigmoid(gate), one gate a row. */
  mulSigmoid(x: Slot, width: number, gate: Slot): void {
    this.emit((at) => ops.mulSigmoid({ x: at.buffer(x), gate: at.buffer(gate), width, off: 0, gateOff: 0, gateStep: 0 }));
  }

  /** Router, then the end of a segment; the next begins by adding the experts' sum into the residual stream. */
  mixtureOfExperts(spec: MoeSpec): void {
    const { layer, topK, rule, bank, shared, multiplier = 1 } = spec;
    const experts = bank.views.length;
    this.experts += experts;
    if (this.experts > limits.modelExpertsMax)
      throw badCheckpoint(
        bank.views[0]!.down.tensor.file,
        `layers up to ${layer} have ${this.experts} experts between them, the limit is ${limits.modelExpertsMax}`,
      );
    const gates: readonly TensorView[] = 'n' in spec.router ? [spec.router] : spec.router;
    const scores = this.slot(
      'scores',
      gates.reduce((sum, gate) => sum + gate.n, 0),
    );
    this.linear({
      name: `layers.${layer}.router`,
      part: 'router',
      role: 'router',
      x: columns(this.normed),
      out: columns(scores),
      weights: gates,
      ...(spec.routerBias === undefined ? {} : { biases: [spec.routerBias] }),
    });
    const selectBias = spec.selectBias === undefined ? null : this.constant(`layers.${layer}.selectBias`, 'router', [spec.selectBias]);
    const node: MoeNode = {
      layer,
      x: this.normed,
      ids: this.slot(`ids.${layer}`, topK),
      weights: this.slot(`weights.${layer}`, topK),
      bank,
      inputNorm: spec.inputNorm,
      inputNormPlus: spec.inputNormPlus ?? 0,
      typicalWeight: (rule.scale ?? 1) / topK,
      limitsItself: limitsItself(rule),
    };
    this.emit((at) =>
      ops.route({
        logits: at.buffer(scores),
        ids: at.buffer(node.ids),
        weights: at.buffer(node.weights),
        selectBias: selectBias && at.buffer(selectBias),
        nodes: at.nodeLimit(node),
        experts,
        k: topK,
        score: rule.score,
        groups: rule.groups?.count ?? 1,
        topGroups: rule.groups?.kept ?? 1,
        groupScore: rule.groups?.score ?? 'max',
        maskZero: rule.groups?.maskZero ?? false,
        renorm: rule.renorm,
        renormEps: rule.renormEps ?? 0,
        scale: rule.scale ?? 1,
        jitterEps: rule.jitterEps ?? 0,
      }),
    );
    this.moe.push(node);
    this.segments.push([]);
    this.emit((at) =>
      ops.combine({
        sum: at.sum,
        residual: at.buffer(this.residual),
        shared: shared && at.buffer(shared),
        grid: at.grid(node),
        multiplier,
      }),
    );
  }

  /** Final norm and vocabulary projection of the logit rows. */
  head(spec: {
    norm: Pick<NormSpec, 'kind' | 'eps' | 'weights' | 'bias' | 'weightPlus'>;
    weight: TensorView;
    bias: TensorView | null;
    scale?: number;
  }): ModelGraph {
    const { hidden, vocab } = this.sizes;
    const last = this.slot('last', hidden, 'logits');
    const logits = this.slot('logits', vocab, 'logits');
    this.emit((at) => ops.gather({ x: at.buffer(this.residual), out: at.buffer(last), width: hidden }));
    this.norm({ name: 'norm', x: columns(last), out: columns(last), width: hidden, logitRows: true, ...spec.norm });
    this.linear({
      name: 'head',
      part: 'head',
      x: columns(last),
      out: columns(logits),
      weights: [spec.weight],
      biases: [spec.bias],
      scale: spec.scale ?? 1,
      logitRows: true,
    });
    return this.finish(logits);
  }

  private finish(logits: Slot): ModelGraph {
    const first = this.moe[0];
    const { hidden, vocab, layers, maxContext } = this.sizes;
    return {
      modelType: this.modelType,
      hidden,
      vocab,
      layers,
      maxContext,
      experts: first?.bank.views.length ?? 0,
      topK: first?.ids.width ?? 0,
      moe: this.moe,
      segments: this.segments,
      slots: [...this.slots.values()],
      constants: this.constants,
      ropes: this.ropes,
      matrices: this.matrices,
      tables: this.tables,
      caches: this.caches,
      logits,
    };
  }

  private emit(recipe: OpRecipe): void {
    this.segments.at(-1)!.push(recipe);
  }

  private matrix(name: string, part: Part, role: MatrixRole, views: readonly TensorView[]): Matrix {
    let n = 0;
    const pieces = views.map((view) => {
      const row = n;
      n += view.n;
      return { row, view };
    });
    const matrix = { name, part, role, n, k: views[0]!.k, pieces };
    this.matrices.push(matrix);
    return matrix;
  }

  /** Rows laid end to end; a null leaves `widths[i]` zeros. */
  private constant(name: string, part: Part, views: readonly (TensorView | null)[], widths: readonly number[] = []): Constant {
    let width = 0;
    const pieces: { at: number; view: TensorView }[] = [];
    views.forEach((view, i) => {
      if (view !== null) pieces.push({ at: width, view });
      width += view?.k ?? widths[i]!;
    });
    const constant = { name, part, width, pieces };
    this.constants.push(constant);
    return constant;
  }
}

function limitsItself({ score, groups }: RoutingRule): string | null {
  if ((groups?.count ?? 1) > 1) return 'its router keeps a token inside groups of its own (place --groups whole puts them on nodes)';
  return score === 'sparse_mixer' ? 'its router weighs its second choice by the first' : null;
}
