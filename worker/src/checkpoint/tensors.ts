import type { DType } from '@switchyard/native';
import { badCheckpoint, quoted } from './bad-checkpoint.ts';
import type { Quantisation } from './quantisation.ts';
import { type StoredDType, storedElementBytes, type TensorInfo } from './safetensors-header.ts';
import type { TensorView } from './tensor-view.ts';

const plainDTypes: Partial<Record<StoredDType, DType>> = { F32: 'f32', F16: 'f16', BF16: 'bf16' };

/**
 * The tensors of a checkpoint, asked for by name and expected shape. Remembers what was asked for, so that a tensor nobody reads (a bias that the config
 * denies, say) is found. Throws `bad_checkpoint` naming file, tensor and offset.
 */
export class Tensors {
  private readonly byName: ReadonlyMap<string, TensorInfo>;
  private readonly dir: string;
  private readonly quantisation: Quantisation;
  private readonly used = new Set<string>();

  constructor(dir: string, byName: ReadonlyMap<string, TensorInfo>, quantisation: Quantisation) {
    this.dir = dir;
    this.byName = byName;
    this.quantisation = quantisation;
  }

  has(name: string): boolean {
    return this.byName.has(name);
  }

  /** The first of several names for the same thing that this checkpoint uses; the first name if none. */
  firstOf(...names: string[]): string {
    return names.find((name) => this.has(name)) ?? names[0]!;
  }

  /** [n, k], in any dtype that holds weights. */
  matrix(name: string, n: number, k: number): TensorView {
    const tensor = this.shaped(name, [n, k]);
    return this.slice(tensor, 0, n, k);
  }

  /** [k] as one row, never quantised. */
  vector(name: string, k: number): TensorView {
    return this.slice(this.shaped(name, [k]), 0, 1, k);
  }

  /** [1, k] as one row. */
  row(name: string, k: number): TensorView {
    return this.slice(this.shaped(name, [1, k]), 0, 1, k);
  }

  /** Matrices [n, k] of a tensor [count, n, k]. */
  stack(name: string, count: number, n: number, k: number): TensorView[] {
    const tensor = this.shaped(name, [count, n, k]);
    return Array.from({ length: count }, (_, i) => this.slice(tensor, i, n, k));
  }

  /** Rows [k] of a tensor [count, k], each as a view [1, k]. */
  vectors(name: string, count: number, k: number): TensorView[] {
    const tensor = this.shaped(name, [count, k]);
    return Array.from({ length: count }, (_, i) => this.slice(tensor, i, 1, k));
  }

  /** MXFP4 matrices [n, k] of `name_blocks` u8 [count, n, k/32, 16] and `name_scales` u8 [count, n, k/32]. */
  mxfp4Stack(name: string, count: number, n: number, k: number): TensorView[] {
    if (k % 32 !== 0)
      throw badCheckpoint(this.dir, `tensor ${quoted(`${name}_blocks`)}: rows of ${k} are not whole blocks of 32`, `${name}_blocks`);
    const blocks = this.typed(this.shaped(`${name}_blocks`, [count, n, k / 32, 16]), 'U8');
    const scales = this.typed(this.shaped(`${name}_scales`, [count, n, k / 32]), 'U8');
    return Array.from({ length: count }, (_, i) => ({
      tensor: blocks,
      dtype: 'mxfp4',
      offset: blocks.offset + (i * n * k) / 2,
      strideN: k / 2,
      strideK: 1,
      n,
      k,
      scale: {
        tensor: scales,
        offset: scales.offset + (i * n * k) / 32,
        stride: k / 32,
        blockN: 1,
        blockK: 32,
        n0: 0,
        k0: 0,
        transposed: false,
      },
    }));
  }

  /** Refuses a checkpoint with a tensor that no one asked for and that `ignored` does not excuse: its config says less than it holds. */
  requireAllRead(ignored: (name: string) => boolean): void {
    for (const tensor of this.byName.values())
      if (!this.used.has(tensor.name) && !ignored(tensor.name))
        throw this.refusal(tensor, 'has no place in the model that config.json describes');
  }

  /** The i-th [n, k] matrix of a tensor whose last dimensions are n, k. */
  private slice(tensor: TensorInfo, i: number, n: number, k: number): TensorView {
    const offset = tensor.offset + i * n * k * storedElementBytes(tensor.dtype);
    const plain = plainDTypes[tensor.dtype];
    if (plain !== undefined) return { tensor, dtype: plain, offset, strideN: k, strideK: 1, n, k, scale: null };
    if (tensor.dtype !== 'F8_E4M3')
      throw this.refusal(tensor, `dtype ${tensor.dtype} does not hold weights; F32, F16, BF16 and F8_E4M3 do`);
    return { tensor, dtype: 'f8_e4m3', offset, strideN: k, strideK: 1, n, k, scale: this.blockScales(tensor, i, n, k) };
  }

  /** FP8 block scales `X_scale_inv` of tensor `X`: f32 or bf16 [.., ceil(n/blockN), ceil(k/blockK)] (DeepSeek-V3, Qwen3). */
  private blockScales(tensor: TensorInfo, i: number, n: number, k: number): TensorView['scale'] {
    if (this.quantisation.method !== 'fp8') throw this.refusal(tensor, 'is F8_E4M3, but config.json has no quantization_config for fp8');
    const [blockN, blockK] = this.quantisation.block;
    const rows = Math.ceil(n / blockN);
    const columns = Math.ceil(k / blockK);
    const scales = this.typed(this.shaped(`${tensor.name}_scale_inv`, [...tensor.shape.slice(0, -2), rows, columns]), 'F32', 'BF16');
    return {
      tensor: scales,
      offset: scales.offset + i * rows * columns * storedElementBytes(scales.dtype),
      stride: columns,
      blockN,
      blockK,
      n0: 0,
      k0: 0,
      transposed: false,
    };
  }

  private shaped(name: string, shape: number[]): TensorInfo {
    const tensor = this.byName.get(name);
    if (tensor === undefined) throw badCheckpoint(this.dir, `tensor ${quoted(name)} is missing, expected with shape [${shape}]`, name);
    if (tensor.shape.length !== shape.length || tensor.shape.some((size, i) => size !== shape[i]))
      throw this.refusal(tensor, `has shape [${tensor.shape}], config.json asks for [${shape}]`);
    this.used.add(name);
    return tensor;
  }

  private typed(tensor: TensorInfo, ...dtypes: StoredDType[]): TensorInfo {
    if (!dtypes.includes(tensor.dtype)) throw this.refusal(tensor, `is ${tensor.dtype}, expected ${dtypes.join(' or ')}`);
    return tensor;
  }

  private refusal(tensor: TensorInfo, problem: string): Error {
    return badCheckpoint(tensor.file, `tensor ${quoted(tensor.name)} at offset ${tensor.offset} ${problem}`, tensor.name);
  }
}
