import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { runFolderOwner } from './run-folder.ts';

/** How commands on the same machine, run by the same user, administer a running `switchyard up`: its run folder holds this. */
export interface Session {
  url: string;
  adminToken: string;
  /** Where its coordinator records traces. */
  traceDir: string;
}

const fileName = 'session.json';

export function saveSession(runFolder: string, session: Session): void {
  writeFileSync(path.join(runFolder, fileName), JSON.stringify(session), { mode: 0o600 });
}

/** The session that serves `url`, if this user started it on this machine and it still runs. */
export function findSession(url: string, parent: string = os.tmpdir()): Session | null {
  for (const name of readdirSync(parent)) {
    if (runFolderOwner(name) !== 'alive') continue;
    const file = path.join(parent, name, fileName);
    try {
      // A folder in a shared place can be anyone's: only our own is believed.
      if (statSync(file).uid !== process.getuid?.()) continue;
      const session = JSON.parse(readFileSync(file, 'utf8')) as Session;
      if (sameServer(session.url, url)) return session;
    } catch {
      // Not ready yet, or ended just now.
    }
  }
  return null;
}

/** One that listens on every address answers under all names of this machine; its secret goes to no other. */
function sameServer(served: string, asked: string): boolean {
  const [left, right] = [new URL(served), new URL(asked)];
  if (left.port !== right.port) return false;
  if (everyAddress.has(left.hostname)) return isThisMachine(right.hostname);
  return oneLoopback(left.hostname) === oneLoopback(right.hostname);
}

const everyAddress = new Set(['0.0.0.0', '[::]']);
const loopback = new Set(['localhost', '127.0.0.1', '[::1]']);

/** Whoever connects to "every address" reaches this machine by its loopback. */
function oneLoopback(host: string): string {
  return loopback.has(host) || everyAddress.has(host) ? 'localhost' : host;
}

function isThisMachine(host: string): boolean {
  if (oneLoopback(host) === 'localhost' || host === os.hostname().toLowerCase()) return true;
  const addresses = Object.values(os.networkInterfaces()).flatMap((list) => list ?? []);
  return addresses.some(({ address, family }) => host === (family === 'IPv6' ? `[${address}]` : address));
}
