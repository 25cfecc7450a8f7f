import { badCheckpoint } from './bad-checkpoint.ts';
import { readExactly, withRegularFile } from './regular-file.ts';

/** Reads a JSON object from a file of at most `bytesMax`. Throws `bad_checkpoint`. */
export function readJsonObject(path: string, bytesMax: number): Record<string, unknown> {
  let text: string;
  try {
    const read = withRegularFile(path, (file, bytes) => {
      if (bytes > bytesMax) throw badCheckpoint(path, `${bytes} bytes, the limit is ${bytesMax}`);
      return readExactly(file, 0, bytes);
    });
    text = new TextDecoder('utf-8', { fatal: true }).decode(read);
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
  if (isDeep(parsed, levelsMax)) throw badCheckpoint(path, `nests more than ${levelsMax} levels deep`);
  return parsed as Record<string, unknown>;
}

/** Whoever writes such an object out again calls itself for every level. */
const levelsMax = 100;

function isDeep(value: unknown, levels: number): boolean {
  if (typeof value !== 'object' || value === null) return false;
  return levels === 0 || Object.values(value).some((inner) => isDeep(inner, levels - 1));
}
