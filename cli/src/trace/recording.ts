import { chmodSync, copyFileSync, existsSync, readdirSync, renameSync, rmSync, unlinkSync } from 'node:fs';
import path from 'node:path';
import type { ApiClient } from '../api/client.ts';

/** What the coordinator says of a recording (docs/observe.md). */
export interface RecordingStatus {
  on: boolean;
  /** Where, without its ending: the recording's name. */
  file: string;
  /** On the coordinator's machine, oldest first; each is complete in itself, and has a `.sequences.jsonl` beside it. */
  files: string[];
  sequences: number;
  rows: number;
  droppedRows: number;
}

export async function startRecording(admin: ApiClient, name: string, signal?: AbortSignal): Promise<RecordingStatus> {
  return (await admin.post<RecordingStatus>('/v1/switchyard/trace', { on: true, file: name }, signal)).body;
}

/** Null when nothing was being recorded any more. */
export async function stopRecording(admin: ApiClient): Promise<RecordingStatus | null> {
  const { body } = await admin.post<RecordingStatus | { on: false }>('/v1/switchyard/trace', { on: false });
  return 'files' in body ? body : null;
}

/** The files of a recording that was moved to `out` before, whole or in part; its folder exists. */
export function earlierRecording(out: string): string[] {
  const folder = path.dirname(out);
  const name = path.basename(out);
  const others = readdirSync(folder).filter(
    (other) => other.startsWith(name) && /^(\.[1-9]\d*)?(\.sequences\.jsonl)?$/.test(other.slice(name.length)),
  );
  return others.map((other) => path.join(folder, other));
}

/** Removes what was not replaced of an earlier recording: beside a shorter one it would pass for its end. */
export function removeRest(earlier: readonly string[], files: readonly string[]): void {
  const kept = new Set(files.flatMap((file) => [file, `${file}.sequences.jsonl`]).map((file) => path.resolve(file)));
  for (const file of earlier) if (!kept.has(path.resolve(file))) rmSync(file, { force: true });
}

/**
 * Moves a recording's files to `out`, the first under that very name, further ones (a recording is cut at a size) as `<out>.1`, `<out>.2`, … They stay
 * readable by their owner alone. Returns the names.
 */
export function moveRecording(files: readonly string[], out: string): string[] {
  return files.map((file, index) => {
    const target = index === 0 ? out : `${out}.${index}`;
    moveFile(file, target);
    const sequences = `${file}.sequences.jsonl`;
    if (existsSync(sequences)) moveFile(sequences, `${target}.sequences.jsonl`);
    else rmSync(`${target}.sequences.jsonl`, { force: true });
    return target;
  });
}

function moveFile(from: string, to: string): void {
  try {
    renameSync(from, to);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EXDEV') throw error;
    copyFileSync(from, to);
    chmodSync(to, 0o600);
    unlinkSync(from);
  }
}
