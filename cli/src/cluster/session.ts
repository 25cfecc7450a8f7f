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

function sameServer(a: string, b: string): boolean {
  const [left, right] = [new URL(a), new URL(b)];
  const local = (host: string) => (host === 'localhost' ? '127.0.0.1' : host);
  return left.port === right.port && local(left.hostname) === local(right.hostname);
}
