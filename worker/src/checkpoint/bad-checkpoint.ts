import { SwitchyardError } from '@switchyard/proto';

/** Names come from files of strangers: quoted, so that control characters show, and cut, so that a long one cannot flood a log. */
export function quoted(name: string): string {
  return JSON.stringify(name.length > 160 ? `${name.slice(0, 160)}…` : name);
}

/** A value of a stranger's JSON, for a message. What nests too deep to be written out is only named. */
export function shown(value: unknown): string {
  try {
    const text = JSON.stringify(value) ?? String(value);
    return text.length > 120 ? `${text.slice(0, 120)}…` : text;
  } catch {
    return `a deep ${Array.isArray(value) ? 'list' : typeof value}`;
  }
}

/** A checkpoint that cannot be used. `file` is the path at fault, `param` the tensor or config key. */
export function badCheckpoint(file: string, problem: string, param: string | null = null, cause?: unknown): SwitchyardError {
  return new SwitchyardError('bad_checkpoint', `${file}: ${problem}`, { param, ...(cause === undefined ? {} : { cause }) });
}
