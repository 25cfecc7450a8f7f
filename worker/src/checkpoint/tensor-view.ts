import type { DType } from '@switchyard/native';
import type { TensorInfo } from './safetensors-header.ts';

/**
 * A [n, k] matrix inside stored tensors, not yet mapped: what `Source` is to the kernels, in terms of files that may not be open. Element (i, j) lies at
 * `offset + (i*strideN + j*strideK) * element bytes`, except `mxfp4`, whose `strideN` is in bytes (see `sy_source`). Offsets are bytes from the file's start.
 */
export interface TensorView {
  readonly tensor: TensorInfo;
  readonly dtype: DType;
  readonly offset: number;
  readonly strideN: number;
  readonly strideK: number;
  readonly n: number;
  readonly k: number;
  readonly scale: ScaleView | null;
}

/**
 * Scales of a quantised view. FP8: one f32 or bf16 per block of (blockN, blockK) of the stored tensor, in which the view begins at (n0, k0). MXFP4: one byte
 * per 32 elements of a row.
 */
export interface ScaleView {
  readonly tensor: TensorInfo;
  readonly offset: number;
  /** Elements from one row of scales to the next. */
  readonly stride: number;
  readonly blockN: number;
  readonly blockK: number;
  readonly n0: number;
  readonly k0: number;
  /** The scales are stored the other way round: the view was transposed. */
  readonly transposed: boolean;
}

/** Bytes of one element; MXFP4 rows are addressed in bytes. */
export function viewElementBytes(dtype: DType): number {
  return dtype === 'f32' || dtype === 'i32' ? 4 : dtype === 'f16' || dtype === 'bf16' ? 2 : 1;
}

/** Bytes that the view's elements take where they are stored, without scales. */
export function viewBytes(view: TensorView): number {
  const elements = view.n * view.k;
  return view.dtype === 'mxfp4' ? elements / 2 : elements * viewElementBytes(view.dtype);
}

/** Rows first, first + step, …, `count` of them. Block-scaled views keep their neighbours: only step 1 there. */
export function rowsOf(view: TensorView, first: number, count: number, step = 1): TensorView {
  const offset = view.offset + first * view.strideN * viewElementBytes(view.dtype);
  const at = { ...view, offset, strideN: view.strideN * step, n: count };
  if (view.scale === null) return at;
  if (view.dtype === 'mxfp4')
    return { ...at, scale: { ...view.scale, offset: view.scale.offset + first * view.scale.stride, stride: view.scale.stride * step } };
  if (step !== 1) throw new Error('rowsOf: a block-scaled view has no strided rows');
  return { ...at, scale: { ...view.scale, n0: view.scale.n0 + first } };
}

/** The same elements as [k, n]. Not for MXFP4, whose rows are packed. */
export function transposed(view: TensorView): TensorView {
  if (view.dtype === 'mxfp4') throw new Error('transposed: MXFP4 rows are packed along k');
  const { scale } = view;
  return {
    ...view,
    strideN: view.strideK,
    strideK: view.strideN,
    n: view.k,
    k: view.n,
    scale: scale && { ...scale, blockN: scale.blockK, blockK: scale.blockN, n0: scale.k0, k0: scale.n0, transposed: !scale.transposed },
  };
}
