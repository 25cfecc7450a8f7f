import { afterAll } from 'vitest';
import { natsTransport } from '../src/index.ts';
import { linkConformance } from './link-conformance.ts';
import { noNatsServer, startNatsServer } from './nats-server.ts';

const server = noNatsServer === null ? await startNatsServer() : null;
afterAll(() => server?.stop());

let count = 0;
linkConformance({
  name: 'nats',
  create: (bounds) => natsTransport(bounds),
  address: () => `nats://127.0.0.1:${server?.port}/conformance.w${count++}`,
  unavailable: noNatsServer,
});
