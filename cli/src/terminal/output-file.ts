import { randomBytes } from 'node:crypto';
import { accessSync, chmodSync, constants, existsSync, realpathSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { CommandFailure, exitStatus } from '../failure.ts';

/** Fails before the work whose result a file is for, not after it, where the file cannot be written. @param option that names the file */
export function checkOutput(file: string | undefined, option: string): void {
  if (file === undefined) return;
  if (file === '') throw new CommandFailure(`${option} names no file`, { status: exitStatus.usage });
  try {
    // A name that is too long, say, is refused here.
    const found = statSync(file, { throwIfNoEntry: false });
    if (found?.isDirectory()) throw new Error('it is a folder');
    accessSync(found === undefined ? path.dirname(path.resolve(file)) : file, constants.W_OK);
  } catch (error) {
    throw new CommandFailure(`${option} ${file}: ${(error as Error).message}`, { status: exitStatus.usage, cause: error });
  }
}

/** The same for a file that is not replaced unasked. */
export function checkNewOutput(file: string, option: string, force: boolean): void {
  if (existsSync(file) && !force) throw new CommandFailure(`${option} ${file} exists: --force replaces it`, { status: exitStatus.usage });
  checkOutput(file, option);
}

/** Whether both names lead to the same file, whatever they are. */
export function sameFile(one: string, other: string): boolean {
  const [a, b] = [one, other].map((file) => statSync(file, { throwIfNoEntry: false }));
  return a !== undefined && a.dev === b?.dev && a.ino === b.ino;
}

export interface Output {
  /** The option that named the file. */
  option: string;
  file: string;
  text: string;
}

/**
 * Writes results, all of them before any takes the place of an earlier file: a disk that is full leaves what was there, and nothing else. Where what is there is
 * no plain file (a device, a pipe) or its folder takes no new ones, it is written to as it is.
 */
export function writeOutputs(outputs: readonly Output[]): void {
  const partials: { partial: string; file: string; output: Output }[] = [];
  try {
    for (const output of outputs)
      blaming(output, () => {
        const { file, text } = output;
        const partial = partialOf(file);
        if (partial === null) return writeFileSync(file, text);
        partials.push({ ...partial, output });
        writeFileSync(partial.partial, text, { flag: 'wx' });
        if (existsSync(partial.file)) chmodSync(partial.partial, statSync(partial.file).mode);
      });
    for (const { partial, file, output } of partials) blaming(output, () => renameSync(partial, file));
  } finally {
    for (const { partial } of partials) rmSync(partial, { force: true });
  }
}

function blaming({ option, file }: Output, work: () => void): void {
  try {
    work();
  } catch (error) {
    throw new CommandFailure(`${option} ${file}: ${(error as Error).message}`, { cause: error });
  }
}

/** Where a file is written before it takes its place; null: it has to be written in place. */
function partialOf(named: string): { partial: string; file: string } | null {
  const there = existsSync(named);
  if (there && !statSync(named).isFile()) return null;
  const file = there ? realpathSync(named) : named;
  try {
    accessSync(path.dirname(path.resolve(file)), constants.W_OK);
  } catch {
    return null;
  }
  return { partial: partialName(file), file };
}

/** Of a file's name so much that with what is added it is one that systems take (255 bytes), whatever the letters: three bytes each at most. */
const partialCharsMax = 64;

/** Of its own: in containers that share a folder process ids come again, and a killed one may have left its file. */
export function partialName(file: string): string {
  const name = path.basename(file).slice(0, partialCharsMax);
  return path.join(path.dirname(file), `${name}.${process.pid}.${randomBytes(4).toString('hex')}.partial`);
}
