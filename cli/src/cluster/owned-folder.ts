import { mkdirSync, statSync } from 'node:fs';
import path from 'node:path';

/**
 * Makes a folder that its owner alone may read, and those above it that are missing. Not by Node's own recursion: Node 20's never returns where the system answers
 * "no such file" below a folder that is there, as /proc does.
 *
 * @throws NodeJS.ErrnoException naming the folder that could not be made
 */
export function makeOwnedFolder(folder: string): void {
  if (statSync(folder, { throwIfNoEntry: false })?.isDirectory()) return;
  const above = path.dirname(folder);
  if (above !== folder) makeOwnedFolder(above);
  try {
    mkdirSync(folder, { mode: 0o700 });
  } catch (error) {
    // Another that starts at the same time has made it.
    if (!statSync(folder, { throwIfNoEntry: false })?.isDirectory()) throw error;
  }
}
