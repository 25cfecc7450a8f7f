import { randomBytes } from 'node:crypto';
import { chmodSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { CommandFailure } from '../failure.ts';

const prefix = 'switchyard-run-';
/** sun_path holds 108 bytes on Linux and 104 on macOS. */
const socketPathBytesMax = 103;
/** Where the coordinator is reached by its workers, in the folder. */
export const controlSocket = 'control.sock';

/** Whether the sockets of a run folder of this name have paths that a system takes. The longest is the coordinator's: workers' are w0.sock to w1023.sock. */
export function socketsFit(folder: string): boolean {
  return Buffer.byteLength(path.join(folder, controlSocket)) <= socketPathBytesMax;
}

export interface RunFolder {
  readonly path: string;
  /** Holds the secret that the coordinator and its workers share; readable by this user alone. */
  readonly tokenFile: string;
  /** Likewise for the admin API, which a worker has no business with. */
  readonly adminTokenFile: string;
  readonly adminToken: string;
  remove(): void;
}

/**
 * A private folder for the sockets and the token of one running cluster. Its name carries our process id, so that a later run can clear away what a
 * killed one left (`removeLeftovers`).
 */
export function createRunFolder(parent: string = os.tmpdir()): RunFolder {
  const failed = (error: unknown) =>
    new CommandFailure(`the temporary folder ${parent} (TMPDIR): ${(error as Error).message}`, { cause: error });
  let folder: string;
  try {
    folder = mkdtempSync(path.join(parent, `${prefix}${process.pid}-`));
  } catch (error) {
    throw failed(error);
  }
  if (!socketsFit(folder)) {
    rmSync(folder, { recursive: true, force: true });
    throw new CommandFailure(
      `the temporary folder ${parent} has too long a name for Unix sockets (${socketPathBytesMax} bytes): set TMPDIR to a shorter one`,
    );
  }
  chmodSync(folder, 0o700);
  const remove = () => {
    process.off('exit', remove);
    rmSync(folder, { recursive: true, force: true });
  };
  const tokenFile = path.join(folder, 'token');
  const adminTokenFile = path.join(folder, 'admin-token');
  const adminToken = newSecret();
  try {
    writeFileSync(tokenFile, newSecret(), { mode: 0o600 });
    writeFileSync(adminTokenFile, adminToken, { mode: 0o600 });
  } catch (error) {
    remove();
    throw failed(error);
  }
  // However this process ends, but for a kill: a second Ctrl-C, say.
  process.on('exit', remove);
  return { path: folder, tokenFile, adminTokenFile, adminToken, remove };
}

function newSecret(): string {
  return randomBytes(32).toString('base64url');
}

/** What the temporary folder holds: nothing where it cannot be read. */
export function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

/** The process that made a folder of this name; null when the name is not one of ours. */
export function runFolderPid(name: string): number | null {
  const pid = /^switchyard-run-([1-9]\d{0,9})-[A-Za-z0-9]+$/.exec(name)?.[1];
  return pid === undefined ? null : Number(pid);
}

export function processLives(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
