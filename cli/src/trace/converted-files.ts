import { renameSync, rmSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { type RoutingTrace, writeSwitchyardTrace } from '@switchyard/placement';

/**
 * Writes a trace as the project's own and returns the names of its two files. Both are whole before either takes the place of an earlier one: a trace that turns
 * out not to be writable, a full disk or an interrupt leaves what was there, and nothing else.
 */
export async function writeConverted(trace: RoutingTrace, to: string, createdAt: string, signal?: AbortSignal): Promise<[string, string]> {
  const { chunks, sequences } = writeSwitchyardTrace(trace, createdAt);
  const beside = `${to}.sequences.jsonl`;
  const partial = (file: string) => `${file}.${process.pid}.partial`;
  // Traces reveal prompts: readable by their owner alone, whoever could read what is replaced.
  const options = { mode: 0o600, flag: 'wx', ...(signal === undefined ? {} : { signal }) };
  try {
    await writeFile(partial(to), chunks, options);
    await writeFile(partial(beside), sequences, options);
    for (const file of [to, beside]) renameSync(partial(file), file);
  } catch (error) {
    for (const file of [to, beside]) rmSync(partial(file), { force: true });
    throw error;
  }
  return [to, beside];
}
