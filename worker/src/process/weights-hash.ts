import { createHash } from 'node:crypto';
import { open } from 'node:fs/promises';
import path from 'node:path';
import { limits } from '@switchyard/proto';
import { readJsonObject } from '../checkpoint/json-file.ts';
import type { TensorInfo } from '../checkpoint/safetensors-header.ts';
import { readTensorIndex } from '../checkpoint/tensor-index.ts';

/** Tensors of which some bytes count, evenly over all names, and how many bytes: training changes nearly every weight. */
const SAMPLED_TENSORS_MAX = 256;
const SAMPLE_BYTES = 64;

/**
 * Names a checkpoint without reading all of it: its configuration, the names, types and shapes of its tensors, and the first bytes of some of them. 64 bits of
 * SHA-256. Equal checkpoints have equal hashes wherever they lie and however they are cut into files; a few edited weights are not noticed.
 */
export async function weightsHash(dir: string): Promise<bigint> {
  const hash = createHash('sha256');
  hash.update(JSON.stringify(readJsonObject(path.join(dir, 'config.json'), limits.configBytesMax)));
  const tensors = [...readTensorIndex(dir).values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  for (const { name, dtype, shape } of tensors) hash.update(JSON.stringify([name, dtype, shape]));
  const stride = Math.max(1, Math.ceil(tensors.length / SAMPLED_TENSORS_MAX));
  for (let i = 0; i < tensors.length; i += stride) hash.update(await firstBytes(tensors[i]));
  return hash.digest().readBigUInt64LE();
}

async function firstBytes({ file, offset, bytes }: TensorInfo): Promise<Buffer> {
  const opened = await open(file);
  try {
    const sample = Buffer.alloc(Math.min(bytes, SAMPLE_BYTES));
    await opened.read(sample, 0, sample.length, offset);
    return sample;
  } finally {
    await opened.close();
  }
}
