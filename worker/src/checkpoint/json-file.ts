import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { badCheckpoint } from './bad-checkpoint.ts';

/** Reads a JSON object from a file of at most `bytesMax`. Throws `bad_checkpoint`. */
export function readJsonObject(path: string, bytesMax: number): Record<string, unknown> {
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(readFile(path, bytesMax));
  } catch (cause) {
    if (cause instanceof TypeError) throw badCheckpoint(path, 'is not UTF-8', null, cause);
    const code = (cause as NodeJS.ErrnoException).code;
    if (code === 'bad_checkpoint') throw cause;
    throw badCheckpoint(path, `cannot be read (${code ?? 'error'})`, null, cause);
  }
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (cause) {
    throw badCheckpoint(path, 'is not JSON', null, cause);
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) throw badCheckpoint(path, 'is not a JSON object');
  return parsed as Record<string, unknown>;
}

/** Pipes are not waited for, and what has no end is no file. */
function readFile(path: string, bytesMax: number): Uint8Array {
  const file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const status = fstatSync(file);
    if (!status.isFile()) throw badCheckpoint(path, 'is not a file');
    if (status.size > bytesMax) throw badCheckpoint(path, `${status.size} bytes, the limit is ${bytesMax}`);
    const bytes = new Uint8Array(status.size);
    let done = 0;
    for (let got = -1; got !== 0 && done < bytes.length; done += got) got = readSync(file, bytes, done, bytes.length - done, done);
    return bytes.subarray(0, done);
  } finally {
    closeSync(file);
  }
}
