import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { MappedFile, Native, Source } from '@switchyard/native';
import { badCheckpoint, quoted } from './bad-checkpoint.ts';
import { readTensorBytes } from './tensor-bytes.ts';
import type { ScaleView, TensorView } from './tensor-view.ts';

/**
 * Turns views into sources by mapping the files they lie in, each once. Weights are copied when they are packed, so files can be unmapped after loading.
 */
export class MappedFiles {
  private readonly native: Native;
  private readonly files = new Map<string, MappedFile>();

  constructor(native: Native) {
    this.native = native;
  }

  source(view: TensorView): Source {
    const { offset, strideN, strideK, dtype, n, k, scale } = view;
    return { file: this.map(view.tensor.file, view), offset, strideN, strideK, dtype, n, k, scale: scale && this.scale(scale) };
  }

  /** Unmaps every file; a source asked for afterwards maps its file anew. */
  release(): void {
    for (const file of this.files.values()) this.native.fileUnmap(file);
    this.files.clear();
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
    if (scale.transposed) return this.transposedScale(scale);
    const { offset, stride, blockN, blockK, n0, k0 } = scale;
    return { file: this.map(scale.tensor.file, scale), offset, stride, blockN, blockK, n0, k0 };
  }

  /**
   * A source's scales are row-major, and those of a transposed view are not: they are written out the other way round, a few kilobytes in a private file
   * that has no name once it is mapped.
   */
  private transposedScale(scale: ScaleView): NonNullable<Source['scale']> {
    const { tensor, stride, blockN, blockK, n0, k0 } = scale;
    const key = `${tensor.file}#${tensor.name}#transposed`;
    const rows = tensor.shape.at(-2)!;
    let file = this.files.get(key);
    if (file === undefined) {
      const scratch = mkdtempSync(path.join(tmpdir(), 'switchyard-'));
      try {
        const name = path.join(scratch, 'scales');
        writeFileSync(name, transposeScales(new Float32Array(readTensorBytes(tensor)), rows, stride), { mode: 0o600 });
        file = this.native.fileMap(name);
        this.files.set(key, file);
      } finally {
        rmSync(scratch, { recursive: true });
      }
    }
    return { file, offset: 0, stride: rows, blockN, blockK, n0, k0 };
  }
}

function transposeScales(scales: Float32Array, rows: number, columns: number): Uint8Array {
  const out = new Float32Array(scales.length);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) out[j * rows + i] = scales[i * columns + j]!;
  return new Uint8Array(out.buffer);
}
