import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import {
  attachToCoordinator,
  grpcTransport,
  type Link,
  type LinkTls,
  serveControl,
  socketTransport,
  type Transport,
} from '../src/index.ts';

/** A certificate authority, a certificate of it, and one of another authority, made for this run. Null where there is no openssl to make them. */
function makeCertificates(): { node: LinkTls; stranger: LinkTls } | null {
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
    return null;
  }
  const read = (file: string) => readFileSync(path.join(folder, file));
  const identity = (name: string): LinkTls => ({
    ca: read('ca.crt'),
    cert: read(`${name}.crt`),
    key: read(`${name}.key`),
    serverName: 'switchyard.test',
  });
  return { node: identity('node'), stranger: identity('stranger') };
}

const certificates = makeCertificates();
const closing: (() => Promise<void>)[] = [];
afterAll(async () => {
  for (const close of closing) await close();
});

const transports: [string, () => Transport, string][] = [
  ['tcp', () => socketTransport('tcp'), 'tcp://127.0.0.1:0'],
  ['grpc', () => grpcTransport(), 'grpc://127.0.0.1:0'],
];

describe.skipIf(certificates === null).each(transports)('mutual TLS over %s', (_, create, address) => {
  const { node, stranger } = certificates!;

  async function listen(accept: (link: Link) => void): Promise<string> {
    const listener = await create().listen(address, { token: 't', tls: node }, accept);
    closing.push(() => listener.close());
    return listener.address;
  }

  it('carries frames between holders of certificates', async () => {
    const at = await listen((link) => link.onFrame((frame) => link.send(frame)));
    const link = await create().dial(at, { token: 't', tls: node });
    const echoed = new Promise<Uint8Array>((resolve) => link.onFrame(resolve));
    const frame = new Uint8Array(3_000_000).fill(7);
    link.send(frame);
    expect(Buffer.compare(await echoed, frame)).toBe(0);
    await link.close();
    expect(await link.closed).toBeNull();
  });

  it('lets in nobody without a certificate, with a foreign one, or in the clear', async () => {
    let accepted = 0;
    const at = await listen(() => accepted++);
    for (const tls of [{ ...node, cert: null, key: null }, stranger, null])
      await expect(create().dial(at, { token: 't', tls })).rejects.toMatchObject({ code: expect.stringMatching(/link_closed|bad_frame/) });
    expect(accepted).toBe(0);
  });

  it('does not trust a listener with another name', async () => {
    const at = await listen(() => {});
    await expect(create().dial(at, { token: 't', tls: { ...node, serverName: 'elsewhere.test' } })).rejects.toMatchObject({
      code: 'link_closed',
    });
  });
});

describe.skipIf(certificates === null)('mutual TLS of the control plane', () => {
  it('carries messages between holders of certificates only', async () => {
    const { node, stranger } = certificates!;
    const server = await serveControl('127.0.0.1:0', { token: '', tls: node }, (worker) => worker.send({ type: 'stop', graceMs: 5 }));
    closing.push(() => server.close());
    const coordinator = await attachToCoordinator(server.address, { token: '', tls: node });
    expect(await new Promise((resolve) => coordinator.onMessage(resolve))).toEqual({ type: 'stop', graceMs: 5 });
    await coordinator.close();
    await expect(attachToCoordinator(server.address, { token: '', tls: stranger })).rejects.toMatchObject({ code: 'link_closed' });
  });
});
