import { existsSync, statSync } from 'node:fs';
import path from 'node:path';
import { CommandFailure, exitStatus } from '../failure.ts';

/** Says that a folder holds no checkpoint before anything tries to open one. @param named as the user wrote it, with its flag where it has one */
export function checkModelFolder(dir: string, named = dir): void {
  checkFolder(dir, named);
  if (!existsSync(path.join(dir, 'config.json')))
    throw new CommandFailure(`${named}: it has no config.json; give a folder in Hugging Face layout`, { status: exitStatus.usage });
}

export function checkFolder(dir: string, named: string): void {
  const wrong = whatIsWrong(dir);
  if (wrong !== null) throw new CommandFailure(`${named}: ${wrong}`, { status: exitStatus.usage });
}

function whatIsWrong(dir: string): string | null {
  try {
    const found = statSync(dir, { throwIfNoEntry: false });
    if (found === undefined) return 'there is no such folder';
    return found.isDirectory() ? null : 'it is no folder';
  } catch (error) {
    return (error as Error).message;
  }
}
