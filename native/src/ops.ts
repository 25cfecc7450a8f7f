import type { Activation, DeviceBuffer, Experts, KvCache, NativeObject, Op, RowSum, Table, Weight } from './contract.ts';
import type { OpKind } from './op-kind.ts';
import { opKind } from './op-kind.ts';

/**
 * One function per op of `switchyard.h`, whose text says exactly what each computes and in which order.
 *
 * T is the rows of the batch. A buffer named `x` or `out` is (>= T, width) and `xOff` is the first column that the op uses; pieces (heads, groups) are
 * `stride` columns apart. `logitRows`: the op works on the batch's logit rows, 0 .. batch.logitRows, instead of all T.
 * Nothing is checked here: `programCreate` checks every field against the objects and names the op that is wrong.
 */

const logitRowsFlag = 1;

function op(kind: OpKind, objects: (NativeObject | null)[], ints: number[], floats: number[] = [], logitRows = false): Op {
  return { kind: opKind[kind], flags: logitRows ? logitRowsFlag : 0, objects, ints, floats };
}

/** out[t, 0..width] = table[token[t]] * scale. */
export function embed(of: { out: DeviceBuffer; table: Table; width: number; scale: number }): Op {
  return op('embed', [of.out, of.table], [of.width], [of.scale]);
}

const normKinds = { rms: 0, layer: 1, l2: 2 } as const;

/**
 * Normalises `groups` pieces of `width` columns each, `xStride` apart; may work in place.
 * - `rms`: x/sqrt(mean(x²) + eps) * (weight + weightPlus)
 * - `layer`: (x - mean)/sqrt(var + eps) * (weight + weightPlus) + bias
 * - `l2`: x/sqrt(mean(x²) + eps), without weight
 *
 * `weight`, `bias`: at least (groups - 1)*weightStride + width floats; weightStride 0 shares one weight over the groups. A null weight is 1, a null bias 0.
 */
export function norm(of: {
  x: DeviceBuffer;
  out: DeviceBuffer;
  weight: DeviceBuffer | null;
  bias: DeviceBuffer | null;
  groups: number;
  width: number;
  xOff: number;
  xStride: number;
  outOff: number;
  outStride: number;
  kind: keyof typeof normKinds;
  weightStride: number;
  eps: number;
  weightPlus: number;
  logitRows: boolean;
}): Op {
  const ints = [of.groups, of.width, of.xOff, of.xStride, of.outOff, of.outStride, normKinds[of.kind], of.weightStride];
  return op('norm', [of.x, of.out, of.weight, of.bias], ints, [of.eps, of.weightPlus], of.logitRows);
}

/** v[n] = dot(x, weight[n]) + bias[n]; `store`: out = scale*v, `add`: out = fma(scale, v, out). x and out must not overlap. */
export function linear(of: {
  x: DeviceBuffer;
  out: DeviceBuffer;
  weight: Weight;
  bias: DeviceBuffer | null;
  xOff: number;
  outOff: number;
  mode: 'store' | 'add';
  scale: number;
  logitRows: boolean;
}): Op {
  return op('linear', [of.x, of.out, of.weight, of.bias], [of.xOff, of.outOff, of.mode === 'add' ? 1 : 0], [of.scale], of.logitRows);
}

/** Per head h: out_h[outDim] = W_h x_h, where W_h is rows h*outDim .. (h+1)*outDim of the weight. */
export function headLinear(of: {
  x: DeviceBuffer;
  out: DeviceBuffer;
  weight: Weight;
  heads: number;
  xOff: number;
  xStride: number;
  outOff: number;
  outStride: number;
  outDim: number;
}): Op {
  return op('head_linear', [of.x, of.out, of.weight], [of.heads, of.xOff, of.xStride, of.outOff, of.outStride, of.outDim]);
}

/**
 * Rotates `rot` columns of each head in place. `table`: (variants * maxPos, rot), cos of rot/2 angles and then their sin; the variant is the sequence's.
 * `half`: column i turns with i + rot/2; `interleaved`: 2i with 2i + 1.
 */
export function rope(of: {
  x: DeviceBuffer;
  table: DeviceBuffer;
  heads: number;
  off: number;
  stride: number;
  rot: number;
  layout: 'half' | 'interleaved';
  maxPos: number;
}): Op {
  return op('rope', [of.x, of.table], [of.heads, of.off, of.stride, of.rot, of.layout === 'interleaved' ? 1 : 0, of.maxPos]);
}

/** x = min(max(x, lo), hi), in place; a NaN stays. */
export function clamp(of: { x: DeviceBuffer; off: number; width: number; lo: number; hi: number }): Op {
  return op('clamp', [of.x], [of.off, of.width], [of.lo, of.hi]);
}

/** Stores the batch's keys and values, one piece per kv head. `v` is null when the cache shares k. */
export function kvWrite(of: {
  k: DeviceBuffer;
  v: DeviceBuffer | null;
  kv: KvCache;
  kOff: number;
  kStride: number;
  vOff: number;
  vStride: number;
}): Op {
  return op('kv_write', [of.k, of.v, of.kv], [of.kOff, of.kStride, of.vOff, of.vStride]);
}

/**
 * Causal attention over the sequence's cache. Position i sees j iff j <= i, i - j < window (0: no window) and j is in i's chunk (0: no chunks).
 * q: `heads` pieces of the cache's kDim, out: of its vDim. `sinks`: (heads), one more score per head that carries no value.
 */
export function attention(of: {
  q: DeviceBuffer;
  out: DeviceBuffer;
  kv: KvCache;
  sinks: DeviceBuffer | null;
  heads: number;
  qOff: number;
  qStride: number;
  outOff: number;
  outStride: number;
  window: number;
  chunk: number;
  scale: number;
}): Op {
  const ints = [of.heads, of.qOff, of.qStride, of.outOff, of.outStride, of.window, of.chunk];
  return op('attention', [of.q, of.out, of.kv, of.sinks], ints, [of.scale]);
}

const activations: Record<Activation, number> = { silu: 0, gpt_oss: 1 };

/** out[i] = activation(x[gateOff + i*step], x[upOff + i*step]); step 2 reads interleaved gates and ups. `alpha`, `limit`: gpt_oss only. */
export function gatedAct(of: {
  x: DeviceBuffer;
  out: DeviceBuffer;
  width: number;
  gateOff: number;
  upOff: number;
  step: 1 | 2;
  outOff: number;
  kind: Activation;
  alpha: number;
  limit: number;
}): Op {
  return op('gated_act', [of.x, of.out], [of.width, of.gateOff, of.upOff, of.step, of.outOff, activations[of.kind]], [of.alpha, of.limit]);
}

/** x[off + i] *= sigmoid(gate[gateOff + i*gateStep]); gateStep 0: one gate a row. */
export function mulSigmoid(of: { x: DeviceBuffer; gate: DeviceBuffer; width: number; off: number; gateOff: number; gateStep: 0 | 1 }): Op {
  return op('mul_sigmoid', [of.x, of.gate], [of.width, of.off, of.gateOff, of.gateStep]);
}

/** out = fma(scale, x, out) over `width` columns. */
export function add(of: { out: DeviceBuffer; x: DeviceBuffer; width: number; outOff: number; xOff: number; scale: number }): Op {
  return op('add', [of.out, of.x], [of.width, of.outOff, of.xOff], [of.scale]);
}

const routeScores = { softmax: 0, softmax_chosen: 1, sigmoid: 2, sparse_mixer: 3, factored: 4 } as const;

/**
 * Chooses k of `experts` per row. Score s: `softmax` over all, `softmax_chosen` (choose by logit, softmax over the chosen), `sigmoid`, or `sparse_mixer`
 * (k = 2, jitterEps), or `factored`. Experts are chosen by s + selectBias: higher first, then lower id; weights come from s alone.
 * groups > 1: only experts of the `topGroups` best groups, by their `max` or the sum of their `top_two`; others score -inf, or 0 with `maskZero`.
 * `factored`: logits (T, groups + experts/groups); p_i * q_j of their two softmaxes, the `topGroups` best groups by p, the k/topGroups best slots by q in each.
 * renorm: w = w / (sum + renormEps); then w *= scale. Otherwise logits: (T, experts). ids: i32 (T, k). weights: (T, k). A row
 * with a NaN among its scores or weights chooses nothing (ids -1, weights 0) and is marked in the batch's `rowStatus`.
 */
export function route(of: {
  logits: DeviceBuffer;
  ids: DeviceBuffer;
  weights: DeviceBuffer;
  selectBias: DeviceBuffer | null;
  /** Lossy: only experts on `limit` nodes of the row's own choosing. `of`: i32 (1, experts), bit n is set where node n holds the expert. */
  nodes?: { of: DeviceBuffer; limit: number } | null;
  experts: number;
  k: number;
  score: keyof typeof routeScores;
  groups: number;
  topGroups: number;
  groupScore: 'max' | 'top_two';
  renorm: boolean;
  maskZero: boolean;
  scale: number;
  renormEps: number;
  jitterEps: number;
}): Op {
  const grouping = [of.groups, of.topGroups, of.groupScore === 'top_two' ? 1 : 0];
  const ints = [of.experts, of.k, routeScores[of.score], ...grouping, of.renorm ? 1 : 0, of.maskZero ? 1 : 0, of.nodes?.limit ?? 0];
  return op('route', [of.logits, of.ids, of.weights, of.selectBias, of.nodes?.of ?? null], ints, [of.scale, of.renormEps, of.jitterEps]);
}

/** Clears the sum's T rows, then adds weight * expert(x) for every chosen expert that has a slot. `slots`: i32 (1, experts), -1 = hosted elsewhere. */
export function experts(of: {
  x: DeviceBuffer;
  ids: DeviceBuffer;
  weights: DeviceBuffer;
  experts: Experts;
  sum: RowSum;
  slots: DeviceBuffer;
  k: number;
  grid: number;
}): Op {
  return op('experts', [of.x, of.ids, of.weights, of.experts, of.sum, of.slots], [of.k, of.grid]);
}

/** residual = fma(multiplier, m, residual), m = sum * 2^grid (+ shared, one rounding). `shared`: (T, hidden) or null. */
export function combine(of: { sum: RowSum; residual: DeviceBuffer; shared: DeviceBuffer | null; grid: number; multiplier: number }): Op {
  return op('combine', [of.sum, of.residual, of.shared], [of.grid], [of.multiplier]);
}

/** out[i] = x[logitRow[i]] over `width` columns. */
export function gather(of: { x: DeviceBuffer; out: DeviceBuffer; width: number }): Op {
  return op('gather', [of.x, of.out], [of.width]);
}
