import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const goldenDir = path.join(path.dirname(fileURLToPath(import.meta.url)), '../../../test/golden');

/** Everything a test file writes goes below here; call `remove` when it ends. */
export class ScratchFolder {
  readonly path = mkdtempSync(path.join(tmpdir(), 'switchyard-worker-'));
  private count = 0;

  /** A copy of a golden folder, with settings of its config.json replaced; undefined takes one away. */
  copyOf(folder: string, settings: Record<string, unknown> = {}): string {
    const dir = path.join(this.path, `${folder}-${this.count++}`);
    cpSync(path.join(goldenDir, folder), dir, { recursive: true });
    const file = path.join(dir, 'config.json');
    writeFileSync(file, JSON.stringify({ ...JSON.parse(readFileSync(file, 'utf8')), ...settings }));
    return dir;
  }

  remove(): void {
    rmSync(this.path, { recursive: true });
  }
}

export interface FileTensor {
  dtype: string;
  shape: number[];
  bytes: Uint8Array;
}

/** Tensors of all shards of a folder, by name. */
export function readTensors(dir: string): Map<string, FileTensor> {
  const tensors = new Map<string, FileTensor>();
  for (const name of readdirSync(dir).filter((file) => file.startsWith('model') && file.endsWith('.safetensors'))) {
    const file = readFileSync(path.join(dir, name));
    const length = Number(file.readBigUInt64LE(0));
    const header = JSON.parse(file.subarray(8, 8 + length).toString('utf8'));
    for (const [tensor, { dtype, shape, data_offsets }] of Object.entries<{ dtype: string; shape: number[]; data_offsets: number[] }>(
      header,
    ))
      if (tensor !== '__metadata__')
        tensors.set(tensor, {
          dtype,
          shape,
          bytes: Uint8Array.from(file.subarray(8 + length + data_offsets[0]!, 8 + length + data_offsets[1]!)),
        });
  }
  return tensors;
}

/** A safetensors file of the given tensors, laid end to end. */
export function writeTensors(file: string, tensors: ReadonlyMap<string, FileTensor>): void {
  let end = 0;
  const header: Record<string, unknown> = {};
  for (const [name, { dtype, shape, bytes }] of tensors) {
    header[name] = { dtype, shape, data_offsets: [end, end + bytes.length] };
    end += bytes.length;
  }
  const json = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  writeFileSync(file, Buffer.concat([length, json, ...[...tensors.values()].map((tensor) => tensor.bytes)]));
}

/** The values of a bf16 tensor as f32. */
export function widened({ dtype, shape, bytes }: FileTensor): FileTensor {
  if (dtype !== 'BF16') return { dtype, shape, bytes };
  const halves = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2);
  const words = Uint32Array.from(halves, (half) => half << 16);
  return { dtype: 'F32', shape, bytes: new Uint8Array(words.buffer) };
}

/** Several tensors of one shape as one with a leading dimension. */
export function stacked(tensors: readonly FileTensor[]): FileTensor {
  return {
    dtype: tensors[0]!.dtype,
    shape: [tensors.length, ...tensors[0]!.shape],
    bytes: Buffer.concat(tensors.map((tensor) => tensor.bytes)),
  };
}

/** Two matrices, one above the other. */
export function above(upper: FileTensor, lower: FileTensor): FileTensor {
  const [rows, columns] = upper.shape as [number, number];
  return { dtype: upper.dtype, shape: [rows + lower.shape[0]!, columns], bytes: Buffer.concat([upper.bytes, lower.bytes]) };
}
