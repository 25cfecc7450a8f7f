import { chmodSync, copyFileSync, existsSync, renameSync, unlinkSync } from 'node:fs';
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

export async function startRecording(admin: ApiClient, name: string): Promise<RecordingStatus> {
  return (await admin.post<RecordingStatus>('/v1/switchyard/trace', { on: true, file: name })).body;
}

/** Null when nothing was being recorded any more. */
export async function stopRecording(admin: ApiClient): Promise<RecordingStatus | null> {
  const { body } = await admin.post<RecordingStatus | { on: false }>('/v1/switchyard/trace', { on: false });
  return 'files' in body ? body : null;
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
