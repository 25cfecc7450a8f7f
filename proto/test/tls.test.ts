import { afterAll, describe, expect, it } from 'vitest';
import { attachToCoordinator, grpcTransport, type Link, serveControl, socketTransport, type Transport } from '../src/index.ts';
import { makeCertificates } from './certificates.ts';

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
