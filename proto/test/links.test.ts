import { mkdtempSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { grpcTransport, MemoryNetwork, socketTransport } from '../src/index.ts';
import { linkConformance } from './link-conformance.ts';

const folder = mkdtempSync(path.join(os.tmpdir(), 'sy-'));
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
linkConformance({ name: 'uds', create: (bounds) => socketTransport('uds', bounds), address: () => `uds://${folder}/${count++}.sock` });
linkConformance({ name: 'tcp', create: (bounds) => socketTransport('tcp', bounds), address: () => 'tcp://127.0.0.1:0' });
linkConformance({ name: 'grpc', create: (bounds) => grpcTransport(bounds), address: () => 'grpc://127.0.0.1:0' });
