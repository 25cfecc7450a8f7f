import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { badCheckpoint } from './bad-checkpoint.ts';

/** Opens a file for the time of `use`, which is told its size. Pipes are not waited for, and what has no end is no file. Throws `bad_checkpoint`. */
export function withRegularFile<T>(path: string, use: (file: number, bytes: number) => T): T {
  let file: number;
  try {
    file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (cause) {
    throw badCheckpoint(path, `cannot be opened (${(cause as NodeJS.ErrnoException).code ?? 'error'})`, null, cause);
  }
  try {
    const status = fstatSync(file);
    if (!status.isFile()) throw badCheckpoint(path, 'is not a file');
    return use(file, status.size);
  } finally {
    closeSync(file);
  }
}

/** The bytes from `at` on, fewer where the file ends. */
export function readExactly(file: number, at: number, bytes: number): Uint8Array {
  const out = new Uint8Array(bytes);
  for (let done = 0; done < bytes; ) {
    const got = readSync(file, out, done, bytes - done, at + done);
    if (got === 0) return out.subarray(0, done);
    done += got;
  }
  return out;
}
