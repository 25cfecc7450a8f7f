import { afterAll, vi } from 'vitest';
import { natsTransport } from '../src/index.ts';
import { linkConformance } from './link-conformance.ts';
import { noNatsServer, startNatsServer } from './nats-server.ts';
import { relayTo } from './relay.ts';

vi.mock('../src/limits.ts', async (original) => {
  const { limits } = await original<typeof import('../src/limits.ts')>();
  return { limits: { ...limits, linksPerListenerMax: 16 } };
});

const server = noNatsServer === null ? await startNatsServer() : null;
afterAll(() => server?.stop());
vi.spyOn(console, 'log').mockImplementation(() => {}); // The client library prints what it could not parse.

let count = 0;
linkConformance({
  name: 'nats',
  create: (bounds) => natsTransport(bounds),
  address: () => `nats://127.0.0.1:${server?.port}/conformance.w${count++}`,
  unavailable: noNatsServer,
  relay: async (address) => {
    const relay = await relayTo({ host: '127.0.0.1', port: server!.port }, { host: '127.0.0.1', port: 0 });
    return { relay, address: address.replace(/:\d+/, `:${relay.endpoint.port}`) };
  },
  impatient: () => natsTransport({ heartbeatMs: 100, heartbeatsMissedMax: 5 }),
  skip: { reason: 'the client connects again, and if nothing was lost the link goes on', cases: ['broken connection'] },
});
