import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import type { LinkTls } from '../src/index.ts';

/** A certificate authority, a certificate of it, and one of another authority, made for this run. Null where there is no openssl to make them. */
export function makeCertificates(): { node: LinkTls; stranger: LinkTls } | null {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'sy-tls-'));
  const openssl = (...args: string[]) => execFileSync('openssl', args, { cwd: folder, stdio: 'ignore' });
  const authority = (name: string) =>
    openssl(
      'req',
      '-x509',
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:P-256',
      '-nodes',
      '-keyout',
      `${name}.key`,
      '-out',
      `${name}.crt`,
      '-days',
      '2',
      '-subj',
      `/CN=${name}`,
    );
  const certificate = (name: string, by: string) => {
    openssl(
      'req',
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:P-256',
      '-nodes',
      '-keyout',
      `${name}.key`,
      '-out',
      `${name}.csr`,
      '-subj',
      `/CN=${name}`,
    );
    writeFileSync(path.join(folder, 'san.txt'), 'subjectAltName=DNS:switchyard.test\n');
    openssl(
      'x509',
      '-req',
      '-in',
      `${name}.csr`,
      '-CA',
      `${by}.crt`,
      '-CAkey',
      `${by}.key`,
      '-CAcreateserial',
      '-days',
      '2',
      '-extfile',
      'san.txt',
      '-out',
      `${name}.crt`,
    );
  };
  try {
    authority('ca');
    certificate('node', 'ca');
    authority('other');
    certificate('stranger', 'other');
  } catch {
    rmSync(folder, { recursive: true });
    return null;
  }
  const read = (file: string) => readFileSync(path.join(folder, file));
  const identity = (name: string): LinkTls => ({
    ca: read('ca.crt'),
    cert: read(`${name}.crt`),
    key: read(`${name}.key`),
    serverName: 'switchyard.test',
  });
  const made = { node: identity('node'), stranger: identity('stranger') };
  rmSync(folder, { recursive: true });
  return made;
}
