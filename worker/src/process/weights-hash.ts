import { createHash } from 'node:crypto';
import { open, readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { limits } from '@switchyard/proto';

/**
 * Names a checkpoint without reading its weights: config.json, and of every safetensors file the name, size and header (names, shapes, dtypes and places of its
 * tensors). 64 bits of SHA-256. Equal checkpoints have equal hashes wherever they lie; an edited weight of unchanged shape is not noticed.
 */
export async function weightsHash(dir: string): Promise<bigint> {
  const hash = createHash('sha256');
  hash.update(await readFile(path.join(dir, 'config.json')));
  const files = (await readdir(dir)).filter((name) => name.endsWith('.safetensors')).sort();
  for (const name of files) {
    const file = await open(path.join(dir, name));
    try {
      const { size } = await file.stat();
      const length = await readExactly(file, 0, 8);
      // The loader has validated the header by now; the bound only keeps a file that changed since from asking for the moon.
      const headerBytes = Math.min(Number(length.readBigUInt64LE()), limits.safetensorsHeaderBytesMax, size - 8);
      hash.update(`${name}\0${size}\0`);
      hash.update(await readExactly(file, 8, headerBytes));
    } finally {
      await file.close();
    }
  }
  return hash.digest().readBigUInt64LE();
}

async function readExactly(file: Awaited<ReturnType<typeof open>>, position: number, bytes: number): Promise<Buffer> {
  const buffer = Buffer.alloc(bytes);
  const { bytesRead } = await file.read(buffer, 0, bytes, position);
  return buffer.subarray(0, bytesRead);
}
