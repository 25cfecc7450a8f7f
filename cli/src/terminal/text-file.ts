import { closeSync, openSync, readSync } from 'node:fs';

const chunkBytes = 1024 * 1024;

/**
 * A file's text. What a pipe (a shell's `<(…)`) or a device has is known only once it has been read, and some have no end.
 *
 * @throws Error when it is longer than `bytesMax`, and what the system says
 */
export function readTextFile(file: string, bytesMax: number): string {
  const descriptor = openSync(file, 'r');
  const chunks: Buffer[] = [];
  try {
    for (let length = 0; ; ) {
      const chunk = Buffer.alloc(chunkBytes);
      const read = readSync(descriptor, chunk);
      length += read;
      if (length > bytesMax) throw new Error(`it has more than ${bytesMax} bytes`);
      if (read === 0) return Buffer.concat(chunks).toString('utf8');
      chunks.push(chunk.subarray(0, read));
    }
  } finally {
    closeSync(descriptor);
  }
}
