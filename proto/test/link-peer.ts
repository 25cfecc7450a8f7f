import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { LinkOptions } from '../src/index.ts';

export type PeerRole = 'listen' | 'dial';

/** Another process at the other end of a link. */
export interface Peer {
  child: ChildProcess;
  /** The next line that it says. */
  line: () => Promise<string>;
}

const script = fileURLToPath(new URL('fixtures/peer.mjs', import.meta.url));

/** @param flags of Node */
export function spawnPeer(role: PeerRole, address: string, options: LinkOptions, flags: string[]): Peer {
  const child = spawn(process.execPath, [...flags, script, role, address], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, PEER_OPTIONS: asJson(options) },
  });
  let text = '';
  const waiting: ((line: string) => void)[] = [];
  const lines: string[] = [];
  child.stdout!.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk;
    const parts = text.split('\n');
    text = parts.pop()!;
    for (const part of parts) {
      const wake = waiting.shift();
      if (wake === undefined) lines.push(part);
      else wake(part);
    }
  });
  return { child, line: () => (lines.length > 0 ? Promise.resolve(lines.shift()!) : new Promise((resolve) => waiting.push(resolve))) };
}

/** Certificates as text: another process reads it. */
function asJson({ token, tls }: LinkOptions): string {
  const pem = (bytes: Uint8Array | null) => (bytes === null ? null : Buffer.from(bytes).toString());
  return JSON.stringify({ token, tls: tls === null ? null : { ...tls, ca: pem(tls.ca), cert: pem(tls.cert), key: pem(tls.key) } });
}
