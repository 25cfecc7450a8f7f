import { readFileSync, statSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { ApiClient } from '../api/client.ts';
import { namesIn, processLives, runFolderPid } from './run-folder.ts';
import type { TraceFolder } from './trace-folder.ts';

/** How commands on the same machine, run by the same user, administer a running `switchyard up`: its run folder holds this. */
export interface Session {
  url: string;
  adminToken: string;
  traces: TraceFolder;
}

const fileName = 'session.json';

export function saveSession(runFolder: string, session: Session): void {
  writeFileSync(path.join(runFolder, fileName), JSON.stringify(session), { mode: 0o600 });
}

/** The session that serves `url`, if this user started it on this machine and it still runs. */
export function findSession(url: string, parent: string = os.tmpdir()): Session | null {
  for (const name of namesIn(parent)) {
    const pid = runFolderPid(name);
    if (pid === null || !processLives(pid)) continue;
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

/**
 * A client that administers a session. It goes where the session says that it listens, not to the name by which it was found: `localhost` may lead to another family
 * of addresses, where somebody else would be told the secret.
 */
export function administer({ url, adminToken }: Session, timeoutMs: number): ApiClient {
  return new ApiClient({ url, apiKey: adminToken, timeoutMs });
}

/** Of the session that serves `url`; null where there is none. */
export function connectToSession(url: string, timeoutMs: number, parent?: string): ApiClient | null {
  const session = findSession(url, parent);
  return session === null ? null : administer(session, timeoutMs);
}

/**
 * One that listens on every address answers under all names of this machine; its secret goes to no other. Nor does it go to another family of addresses: on
 * `[::1]` anybody else may listen at the port that is ours on 127.0.0.1.
 */
function sameServer(served: string, asked: string): boolean {
  const [left, right] = [new URL(served), new URL(asked)];
  if (left.port !== right.port) return false;
  const [ours, theirs] = [loopbackOf(left.hostname), loopbackOf(right.hostname)];
  if (ours === theirs) return true;
  if (left.hostname === '0.0.0.0') return isThisMachine(theirs, ['IPv4']);
  return left.hostname === '[::]' && isThisMachine(theirs, ['IPv4', 'IPv6']);
}

/** Whoever connects to "every address" reaches this machine by its loopback. */
const loopbacks = new Map([
  ['localhost', '127.0.0.1'],
  ['0.0.0.0', '127.0.0.1'],
  ['[::]', '[::1]'],
]);

function loopbackOf(host: string): string {
  return loopbacks.get(host) ?? host;
}

function isThisMachine(host: string, families: readonly string[]): boolean {
  if (host === os.hostname().toLowerCase()) return true;
  const addresses = Object.values(os.networkInterfaces()).flatMap((list) => list ?? []);
  return addresses.some(({ address, family }) => families.includes(family) && host === (family === 'IPv6' ? `[${address}]` : address));
}
