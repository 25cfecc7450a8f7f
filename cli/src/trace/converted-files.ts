import { renameSync, rmSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { type RoutingTrace, writeSwitchyardTrace } from '@switchyard/placement';
import { partialName } from '../terminal/output-file.ts';

/**
 * Writes a trace as the project's own and returns the names of its two files. Both are whole before either takes the place of an earlier one: a trace that turns
 * out not to be writable, a full disk or an interrupt leaves what was there, and nothing else.
 */
export async function writeConverted(trace: RoutingTrace, to: string, createdAt: string, signal?: AbortSignal): Promise<[string, string]> {
  const { chunks, sequences } = writeSwitchyardTrace(trace, createdAt);
  const beside = `${to}.sequences.jsonl`;
  const files = [to, beside].map((file) => ({ file, partial: partialName(file) }));
  // Traces reveal prompts: readable by their owner alone, whoever could read what is replaced.
  const options = { mode: 0o600, flag: 'wx', ...(signal === undefined ? {} : { signal }) };
  try {
    await writeFile(files[0].partial, chunks, options);
    await writeFile(files[1].partial, sequences, options);
    for (const { file, partial } of files) renameSync(partial, file);
  } catch (error) {
    for (const { partial } of files) rmSync(partial, { force: true });
    throw error;
  }
  return [to, beside];
}
