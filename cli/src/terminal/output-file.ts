import { accessSync, constants, existsSync, statSync } from 'node:fs';
import path from 'node:path';
import { CommandFailure, exitStatus } from '../failure.ts';

/** Fails before the work whose result a file is for, not after it, where the file cannot be written. @param option that names the file */
export function checkOutput(file: string | undefined, option: string): void {
  if (file === undefined) return;
  try {
    const there = existsSync(file);
    if (there && statSync(file).isDirectory()) throw new Error('it is a folder');
    accessSync(there ? file : path.dirname(path.resolve(file)), constants.W_OK);
  } catch (error) {
    throw new CommandFailure(`${option} ${file}: ${(error as Error).message}`, { status: exitStatus.usage, cause: error });
  }
}

/** The same for a file that is not replaced unasked. */
export function checkNewOutput(file: string, option: string, force: boolean): void {
  if (existsSync(file) && !force) throw new CommandFailure(`${option} ${file} exists: --force replaces it`, { status: exitStatus.usage });
  checkOutput(file, option);
}
