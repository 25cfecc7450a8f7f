// What is measured: every transport, and gRPC also as it comes. NATS where a server is installed: on one machine it is a third process that shares the cores.
import { sharedMemory } from '@switchyard/native';
import { grpcTransport, MemoryNetwork, natsTransport, sharedMemoryTransport, socketTransport } from '@switchyard/proto';
import { stockGrpc } from './stock-grpc.mjs';

/** Bytes unsent before a sender waits: a few of the largest frames. */
const pendingBytesMax = 32 * 1024 * 1024;

export const subjects = {
  memory: { transport: () => new MemoryNetwork({ pendingBytesMax }), address: () => 'memory://bench', sameProcess: true, baseline: null },
  shm: {
    transport: () => sharedMemoryTransport(sharedMemory, { pendingBytesMax }),
    address: (folder) => `shm://${folder}/shared.sock`,
    baseline: 'shm',
  },
  uds: { transport: () => socketTransport('uds', { pendingBytesMax }), address: (folder) => `uds://${folder}/node.sock`, baseline: 'uds' },
  tcp: { transport: () => socketTransport('tcp', { pendingBytesMax }), address: () => 'tcp://127.0.0.1:0', baseline: 'tcp' },
  grpc: { transport: () => grpcTransport({ pendingBytesMax }), address: () => 'grpc://127.0.0.1:0', baseline: 'tcp' },
  nats: {
    transport: () => natsTransport({ pendingBytesMax }),
    address: (_folder, broker) => `nats://127.0.0.1:${broker}/bench`,
    baseline: 'tcp',
    needsBroker: true,
  },
  'gRPC as it comes': { transport: () => stockGrpc, address: () => 'any', baseline: 'tcp' },
};

export const linkOptions = { token: 'bench', tls: null };
