import { lstatSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { someoneListens } from '@switchyard/proto';
import { controlSocket, namesIn, processLives, runFolderPid } from './run-folder.ts';

/** What a worker listens on that was told no address: see worker/src/process/flags.ts. */
const workerSocket = /^switchyard-[\w.-]{1,64}-([1-9]\d{0,9})\.(?:shm|sock)$/;

/**
 * Removes what killed processes of this user left in the temporary folder: run folders, and sockets of workers that were started by hand. Their names tell whose
 * they were. That no such process lives is not enough, for a container that shares the folder numbers its processes by itself: nobody may answer there either.
 */
export async function removeLeftovers(parent: string = os.tmpdir()): Promise<void> {
  for (const name of namesIn(parent)) {
    const entry = path.join(parent, name);
    try {
      const folderPid = runFolderPid(name);
      const socketPid = workerSocket.exec(name);
      if (folderPid !== null) await remove(entry, folderPid, path.join(entry, controlSocket));
      else if (socketPid !== null) await remove(entry, Number(socketPid[1]), entry);
    } catch {
      // Another start is clearing the same away.
    }
  }
}

async function remove(entry: string, pid: number, socket: string): Promise<void> {
  const found = lstatSync(entry);
  const ours = found.uid === process.getuid?.() && (socket === entry ? found.isSocket() : found.isDirectory());
  if (ours && !processLives(pid) && !(await someoneListens(socket))) rmSync(entry, { recursive: true, force: true });
}
