import { chmodSync, constants, copyFileSync, existsSync, linkSync, readdirSync, renameSync, rmSync, unlinkSync } from 'node:fs';
import path from 'node:path';
import type { ApiClient } from '../api/client.ts';
import { CommandFailure } from '../failure.ts';
import { partialName } from '../terminal/output-file.ts';

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
  /** Why nothing is recorded any more, until it is turned off; null: it is. */
  failure: string | null;
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
 * @throws CommandFailure where there is no room for them, say: they are then still where they were, and so is what they would have replaced
 */
export function moveRecording(files: readonly string[], out: string): string[] {
  const targets = files.map((_, index) => (index === 0 ? out : `${out}.${index}`));
  const moves = files.flatMap((file, index) => [
    { from: file, to: targets[index] },
    { from: `${file}.sequences.jsonl`, to: `${targets[index]}.sequences.jsonl` },
  ]);
  const there = moves
    .filter(({ from }, index) => index % 2 === 0 || existsSync(from))
    .map((move) => ({ ...move, partial: partialName(move.to) }));
  try {
    for (const { from, partial } of there) linkOrCopy(from, partial);
    for (const { partial, to } of there) renameSync(partial, to);
  } catch (error) {
    for (const { partial } of there) rmSync(partial, { force: true });
    throw new CommandFailure(`--out ${out}: ${(error as Error).message}; what was recorded is in ${files.join(', ')}`, { cause: error });
  }
  for (const { from, to } of moves)
    if (existsSync(from)) unlinkSync(from);
    else rmSync(to, { force: true });
  return targets;
}

/** A second name where the file system gives one, else a copy. */
function linkOrCopy(from: string, to: string): void {
  try {
    linkSync(from, to);
  } catch {
    copyFileSync(from, to, constants.COPYFILE_EXCL);
    chmodSync(to, 0o600);
  }
}
