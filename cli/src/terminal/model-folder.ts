import { statSync } from 'node:fs';
import { CommandFailure, exitStatus } from '../failure.ts';

/** Says that a folder is not there before anything tries to open a checkpoint in it. @param named as the user wrote it, with its flag where it has one */
export function checkModelFolder(dir: string, named = dir): void {
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
