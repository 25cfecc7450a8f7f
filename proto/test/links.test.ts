import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, vi } from 'vitest';
import { grpcTransport, type LinkTls, MemoryNetwork, socketTransport } from '../src/index.ts';
import { makeCertificates } from './certificates.ts';
import { linkConformance } from './link-conformance.ts';
import { relayTo } from './relay.ts';

vi.mock('../src/limits.ts', async (original) => {
  const { limits } = await original<typeof import('../src/limits.ts')>();
  return { limits: { ...limits, linksPerListenerMax: 16 } };
});

const folder = mkdtempSync(path.join(os.tmpdir(), 'sy-'));
afterAll(() => rmSync(folder, { recursive: true }));
let count = 0;

const inProcess = {
  reason: 'memory links live in one process, and both ends of one share its bounds',
  cases: ['another process' as const, 'oversize at the receiver' as const],
};
linkConformance({
  name: 'memory',
  create: (bounds) => new MemoryNetwork(bounds),
  address: () => `memory://w${count++}`,
  skip: inProcess,
});
linkConformance({
  name: 'memory with delays',
  create: (bounds) => new MemoryNetwork({ ...bounds, seed: 3, delayMs: [0, 4] }),
  address: () => `memory://w${count++}`,
  skip: inProcess,
});
linkConformance({
  name: 'uds',
  create: (bounds) => socketTransport('uds', bounds),
  address: () => `uds://${folder}/${count++}.sock`,
  relay: async (address) => {
    const between = path.join(folder, `${count++}.sock`);
    const relay = await relayTo({ path: address.replace(/^uds:\/\/[0-9a-f]*/, '') }, { path: between });
    return { relay, address: `uds://${between}` };
  },
});

/** A relay on a port of its own. */
async function relayPort(address: string) {
  const [scheme, port] = /^(\w+):.*:(\d+)$/.exec(address)!.slice(1);
  const relay = await relayTo({ host: '127.0.0.1', port: Number(port) }, { host: '127.0.0.1', port: 0 });
  return { relay, address: `${scheme}://127.0.0.1:${relay.endpoint.port}` };
}
const tcp = {
  create: (bounds: object) => socketTransport('tcp', bounds),
  address: () => 'tcp://127.0.0.1:0',
  relay: relayPort,
};
const grpc = {
  create: (bounds: object) => grpcTransport(bounds),
  address: () => 'grpc://127.0.0.1:0',
  relay: relayPort,
  impatient: () => grpcTransport({ keepalive: { timeMs: 200, timeoutMs: 200 } }),
};
linkConformance({ name: 'tcp', ...tcp });
linkConformance({ name: 'grpc', ...grpc });

const made = makeCertificates();
const unavailable = made === null ? 'no openssl to make certificates with' : null;
const nobody: LinkTls = { ca: null, cert: null, key: null, serverName: null };
const node = made?.node ?? nobody;
const withTls = {
  unavailable,
  options: { token: '', tls: { ...node, ca: null } },
  dialOptions: { token: '', tls: { ...node, cert: null, key: null } },
};
const withMutualTls = { unavailable, options: { token: '', tls: node } };
linkConformance({ name: 'tcp with mutual TLS', ...tcp, ...withMutualTls });
linkConformance({ name: 'grpc with TLS', ...grpc, ...withTls });
linkConformance({ name: 'grpc with mutual TLS', ...grpc, ...withMutualTls });
