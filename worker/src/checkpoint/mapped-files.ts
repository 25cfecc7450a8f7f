import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { MappedFile, Native, Source } from '@switchyard/native';
import { badCheckpoint, quoted } from './bad-checkpoint.ts';
import { storedElementBytes, type TensorInfo } from './safetensors-header.ts';
import { readTensorBytes } from './tensor-bytes.ts';
import type { ScaleView, TensorView } from './tensor-view.ts';
import { WatchedFile } from './watched-file.ts';

/**
 * Turns views into sources by mapping the files they lie in, each once. Weights are copied when they are packed, so files can be unmapped after loading.
 */
export class MappedFiles {
  private readonly native: Native;
  private readonly files = new Map<string, MappedFile>();
  /** Those that stay mapped while the model is served. */
  private readonly watched = new Map<string, WatchedFile>();

  constructor(native: Native) {
    this.native = native;
  }

  source(view: TensorView): Source {
    const { offset, strideN, strideK, dtype, n, k, scale } = view;
    return { file: this.map(view.tensor.file, view), offset, strideN, strideK, dtype, n, k, scale: scale && this.scale(scale) };
  }

  /** A source that is read on and on: `writtenFile` tells of its file. */
  watchedSource(view: TensorView): Source {
    const { file } = view.tensor;
    if (!this.watched.has(file)) this.watched.set(file, new WatchedFile(file));
    return this.source(view);
  }

  /** The first of those that somebody has written to since. */
  get writtenFile(): string | null {
    for (const [file, { isWritten }] of this.watched) if (isWritten) return file;
    return null;
  }

  /** Unmaps every file; a source asked for afterwards maps its file anew. */
  release(): void {
    for (const file of this.files.values()) this.native.fileUnmap(file);
    this.files.clear();
    for (const file of this.watched.values()) file.close();
    this.watched.clear();
  }

  private map(file: string, view: { tensor: { name: string; offset: number; bytes: number } }): MappedFile {
    let mapped = this.files.get(file);
    if (mapped === undefined) {
      mapped = this.native.fileMap(file);
      this.files.set(file, mapped);
    }
    // The header was checked against the file as it was then.
    if (view.tensor.offset + view.tensor.bytes > mapped.bytes)
      throw badCheckpoint(
        file,
        `tensor ${quoted(view.tensor.name)} at offset ${view.tensor.offset}: the file shrank to ${mapped.bytes} bytes`,
        view.tensor.name,
      );
    return mapped;
  }

  private scale(scale: ScaleView): NonNullable<Source['scale']> {
    if (scale.transposed || scale.tensor.dtype === 'BF16') return this.rewrittenScale(scale);
    const { offset, stride, blockN, blockK, n0, k0 } = scale;
    return { file: this.map(scale.tensor.file, scale), offset, stride, blockN, blockK, n0, k0 };
  }

  /**
   * A source's FP8 scales are row-major f32, and those of a transposed view or of a Qwen checkpoint are not: they are written out so, a few kilobytes in a
   * private file that has no name once it is mapped.
   */
  private rewrittenScale(scale: ScaleView): NonNullable<Source['scale']> {
    const { tensor, offset, stride, blockN, blockK, n0, k0, transposed } = scale;
    const key = `${tensor.file}#${tensor.name}#${transposed ? 'transposed' : 'widened'}`;
    const rows = tensor.shape.at(-2)!;
    let file = this.files.get(key);
    if (file === undefined) {
      const scratch = mkdtempSync(path.join(tmpdir(), 'switchyard-'));
      try {
        const name = path.join(scratch, 'scales');
        const scales = readScales(tensor);
        writeFileSync(name, transposed ? transposeScales(scales, rows, stride) : scales, { mode: 0o600 });
        file = this.native.fileMap(name);
        this.files.set(key, file);
      } finally {
        rmSync(scratch, { recursive: true });
      }
    }
    const first = (offset - tensor.offset) / storedElementBytes(tensor.dtype);
    return { file, offset: first * Float32Array.BYTES_PER_ELEMENT, stride: transposed ? rows : stride, blockN, blockK, n0, k0 };
  }
}

function readScales(tensor: TensorInfo): Float32Array {
  const bytes = readTensorBytes(tensor);
  // A bf16 is the upper half of an f32.
  return new Float32Array(tensor.dtype === 'BF16' ? Uint32Array.from(new Uint16Array(bytes), (half) => half << 16).buffer : bytes);
}

function transposeScales(scales: Float32Array, rows: number, columns: number): Float32Array {
  const out = new Float32Array(scales.length);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) out[j * rows + i] = scales[i * columns + j]!;
  return out;
}
