import { createHash } from 'node:crypto';
import { readlinkSync, rmSync, statSync } from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import { SwitchyardError } from './errors.ts';
import { limits } from './limits.ts';
import { bootId } from './machine.ts';

/** @throws SwitchyardError `invalid_request` for a path the kernel would refuse or cut. */
export function checkSocketPath(path: string): void {
  const bytes = Buffer.byteLength(path);
  if (bytes === 0 || bytes > limits.socketPathBytesMax || !path.startsWith('/') || path.includes('\0'))
    throw new SwitchyardError(
      'invalid_request',
      `socket path ${JSON.stringify(path)} (${bytes} bytes): an absolute path of at most ${limits.socketPathBytesMax} bytes is needed`,
    );
}

/**
 * Removes a socket file that no process listens on any more, as one killed leaves it. One that answers is left alone: listening there then fails with
 * EADDRINUSE, as it should.
 */
export async function removeStaleSocket(path: string): Promise<void> {
  const found = statSync(path, { throwIfNoEntry: false });
  if (found?.isSocket() && !(await someoneListens(path))) rmSync(path, { force: true });
}

/** Whether a process listens on a socket file; in doubt (no right to connect, a full queue) it does. */
export function someoneListens(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = net.connect(path, () => {
      probe.destroy();
      resolve(true);
    });
    probe.on('error', ({ code }: NodeJS.ErrnoException) => resolve(code !== 'ECONNREFUSED' && code !== 'ENOENT'));
  });
}

/**
 * Names the file system view of this process: equal in two processes exactly when a path means the same socket to both (same boot of the same machine, same
 * mount namespace). Part of a `uds://` address, so that a worker never dials a namesake on its own machine.
 */
export function socketRealm(): string {
  realm ??= createHash('sha256').update(realmFacts()).digest('hex').slice(0, 12);
  return realm;
}

let realm: string | undefined;

function realmFacts(): string {
  try {
    return `${bootId()} ${readlinkSync('/proc/self/ns/mnt')}`;
  } catch {
    return os.hostname(); // Not Linux: one file system view per machine is the rule there.
  }
}
