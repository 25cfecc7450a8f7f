import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import net from 'node:net';
import tls from 'node:tls';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { attachToCoordinator, grpcTransport, type LinkOptions, limits, serveControl, socketTransport } from '../src/index.ts';
import { makeCertificates } from './certificates.ts';

vi.mock('../src/limits.ts', async (original) => {
  const { limits } = await original<typeof import('../src/limits.ts')>();
  return { limits: { ...limits, linksPerListenerMax: 2, dialTimeoutMs: 4_000 } };
});

const certificates = makeCertificates();
const closing: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

const secured = (): LinkOptions => ({ token: '', tls: certificates!.node });

/** Timers of the kernel's sockets on a port, one per end of each connection: 0 none, 1 unacknowledged data, 2 keepalive. Listeners have none. */
function timersOn(port: number): number[] {
  const established = '01';
  return readFileSync('/proc/net/tcp', 'utf8')
    .trim()
    .split('\n')
    .slice(1)
    .map((line) => line.trim().split(/\s+/))
    .filter(
      ([, local, remote, state]) => state === established && [local, remote].some((end) => Number.parseInt(end.slice(-4), 16) === port),
    )
    .map(([, , , , , timer]) => Number(timer.slice(0, 2)));
}

describe.skipIf(!existsSync('/proc/net/tcp')).each([false, true])('a tcp link that is silent, TLS %s', (hasTls) => {
  it.skipIf(hasTls && certificates === null)('is probed by the kernel of either end', async () => {
    const options = hasTls ? secured() : { token: '', tls: null };
    const transport = socketTransport('tcp');
    const listener = await transport.listen('tcp://127.0.0.1:0', options, () => {});
    closing.push(() => listener.close());
    const link = await transport.dial(listener.address, options);
    closing.push(() => link.close());
    await expect.poll(() => timersOn(Number(/\d+$/.exec(listener.address)![0]))).toEqual([2, 2]);
  });
});

const controlPlane = {
  listen: (address: string, options: LinkOptions, accept: () => void) => serveControl(address.replace('control://', ''), options, accept),
  dial: attachToCoordinator,
};

const listeners = [
  ['tcp', socketTransport('tcp')],
  ['grpc', grpcTransport()],
  ['control', controlPlane],
] as const;

describe.skipIf(certificates === null).each(listeners)('a %s listener with TLS', (scheme, transport) => {
  /** A connection that has not begun the handshake of TLS. */
  async function silent(address: string): Promise<net.Socket> {
    const socket = net.connect({ host: '127.0.0.1', port: Number(/\d+$/.exec(address)![0]) }).on('error', () => {});
    closing.push(() => socket.destroy());
    await once(socket, 'connect');
    return socket;
  }

  /** Milliseconds until the listener hangs up. */
  async function hungUp(socket: net.Socket): Promise<number> {
    const startedMs = performance.now();
    await once(socket.resume(), 'close');
    return performance.now() - startedMs;
  }

  it('lets in nobody who had not finished the handshake of TLS when it closed', async () => {
    const listener = await transport.listen(`${scheme}://127.0.0.1:0`, secured(), () => {});
    const early = await silent(listener.address);
    await (await transport.dial(listener.address, secured())).close(); // It has seen all who came before.
    await listener.close();
    const { ca, cert, key, serverName } = certificates!.node;
    const pem = { ca: Buffer.from(ca!), cert: Buffer.from(cert!), key: Buffer.from(key!) };
    const late = tls.connect({ socket: early, ...pem, servername: serverName!, ALPNProtocols: ['h2'] }).on('error', () => {});
    expect(await hungUp(late)).toBeLessThan(limits.dialTimeoutMs / 2);
  });

  it('waits no longer for the handshake of TLS than for a link', async () => {
    const listener = await transport.listen(`${scheme}://127.0.0.1:0`, secured(), () => {});
    closing.push(() => listener.close());
    expect(await hungUp(await silent(listener.address))).toBeLessThan(2 * limits.dialTimeoutMs);
  });

  it('holds a bounded number of connections that say nothing', async () => {
    const listener = await transport.listen(`${scheme}://127.0.0.1:0`, secured(), () => {});
    closing.push(() => listener.close());
    for (let i = 0; i < 2 * limits.linksPerListenerMax; i++) await silent(listener.address);
    expect(await hungUp(await silent(listener.address))).toBeLessThan(limits.dialTimeoutMs / 2);
  });
});
