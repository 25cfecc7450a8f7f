import { statSync } from 'node:fs';
import { CommandFailure, exitStatus } from '../failure.ts';

/** Says that a folder is not there before anything tries to open a checkpoint in it. @param named as the user wrote it, with its flag where it has one */
export function checkModelFolder(dir: string, named = dir): void {
  const found = statSync(dir, { throwIfNoEntry: false });
  if (found?.isDirectory()) return;
  throw new CommandFailure(`${named}: ${found === undefined ? 'there is no such folder' : 'it is no folder'}`, {
    status: exitStatus.usage,
  });
}
