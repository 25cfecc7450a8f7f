import type { DType, WeightFormat } from '@switchyard/native';
import { lossyNames } from '@switchyard/proto';
import type { TensorView } from '../checkpoint/tensor-view.ts';
import type { LoadOptions, NumericClass } from './contract.ts';
import type { ExpertBank, Matrix, MatrixRole, ModelGraph } from './graph.ts';

/**
 * The class a model runs in. `auto` is bf16 unless the experts, which are nearly all of a model, are stored as f32 or f16: the inputs of a bf16 checkpoint's
 * products were bf16 when it was trained, and the kernels are several times faster. f16 has three bits that bf16 would round away.
 */
export function resolveNumericClass(graph: ModelGraph, wanted: LoadOptions['numericClass'], nodeLimit: number | null = null): NumericClass {
  const { experts, dense, sum, wire = null } = wanted;
  const storedWide = graph.moe.some((node) => ['f32', 'f16'].includes(expertDType(node.bank)));
  const activations = wanted.activations !== 'auto' ? wanted.activations : storedWide ? 'f32' : 'bf16';
  // Quantised experts round their input to bf16 first, so nothing is lost on the way to them.
  const lossless = activations === 'bf16' || experts !== 'stored' ? 'bf16' : 'f32';
  const computed = [
    activations,
    ...(experts === 'stored' ? [] : [`${experts}-experts`]),
    ...(dense === 'stored' ? [] : [`${dense}-dense`]),
    ...(sum === 'exact' ? [] : [`${sum}-sum`]),
  ].join('+');
  const name = [computed, ...lossyNames({ nodeLimit, wire })].join('+');
  return { activations, experts, dense, sum, wire: wire ?? lossless, name, id: classId(computed) };
}

/** A byte for frames: FNV-1a of the name, folded, never 0. */
function classId(name: string): number {
  let hash = 0x811c9dc5;
  for (const c of name) hash = Math.imul(hash ^ c.charCodeAt(0), 0x01000193);
  return ((hash >>> 24) ^ (hash >>> 16) ^ (hash >>> 8) ^ hash) & 0xff || 1;
}

export function matrixFormat(matrix: Matrix, numericClass: NumericClass): WeightFormat {
  return weightFormat(widest(matrix.pieces.map((piece) => piece.view)), matrix.role, numericClass);
}

function weightFormat(stored: DType, role: MatrixRole, { activations, dense }: NumericClass): WeightFormat {
  if (role === 'linear' && dense === 'int8') return 'int8';
  // Wider weights stay as they are, and so do their inputs: they never travel. (Experts' inputs do, as bf16.)
  const wide = stored === 'f32' || stored === 'f16';
  return role === 'router' || activations === 'f32' || wide ? storedFormat(stored) : 'bf16-x16';
}

/** One format for all experts of a layer, whichever of them this worker hosts. */
export function expertFormat(bank: ExpertBank, { activations, experts }: NumericClass): WeightFormat {
  if (experts !== 'stored') return experts;
  return activations === 'f32' ? storedFormat(expertDType(bank)) : 'bf16-x16';
}

/** Holds every value of the stored type. MXFP4 fits bf16 exactly; an FP8 value times its scale does not. */
export function storedFormat(stored: DType): WeightFormat {
  if (stored === 'bf16' || stored === 'mxfp4') return 'bf16';
  return stored === 'f16' ? 'f16' : 'f32';
}

/** The widest type in which the layer's expert matrices are stored. */
export function expertDType(bank: ExpertBank): DType {
  return widest(bank.views.flatMap(({ gate, up, down }) => [gate, up, down]));
}

/** The common type of stacked views: itself if all agree, else f32, which holds any of them. */
function widest(views: readonly TensorView[]): DType {
  const first = views[0]!.dtype;
  return views.every((view) => view.dtype === first) ? first : 'f32';
}

/** Bytes of n * k weights in a format, scales of quantised groups included. */
export function formatBytes(format: WeightFormat, elements: number): number {
  const scaleBytes = 4 / 64;
  const perElement = { f32: 4, f16: 2, bf16: 2, 'bf16-x16': 2, int8: 1 + scaleBytes, int4: 0.5 + scaleBytes }[format];
  return Math.ceil(elements * perElement);
}

/** Bytes of one resident expert. Biases are held in f32. */
export function expertBytes(bank: ExpertBank, numericClass: NumericClass): number {
  const { hidden, inter } = bank;
  const biases = bank.views[0]!.gateBias === null ? 0 : 2 * inter + hidden;
  return formatBytes(expertFormat(bank, numericClass), 3 * hidden * inter) + 4 * biases;
}
