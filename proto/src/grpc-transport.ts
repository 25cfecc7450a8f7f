import { dialStream, type StreamKind, serveStreams } from './grpc-stream.ts';
import { limits } from './limits.ts';
import type { Transport } from './link.ts';
import { formatHostPort, parseHostPort } from './link-address.ts';

export interface GrpcTransportOptions {
  frameBytesMax: number;
  pendingBytesMax: number;
  /** null leaves HTTP/2's default of 64 KiB: for comparison. */
  windowBytes: number | null;
}

/** The `grpc` transport: one bidirectional stream of frames per link, each link on a connection of its own. The default between machines. */
export function grpcTransport(options: Partial<GrpcTransportOptions> = {}): Transport {
  const kind: StreamKind = {
    transport: 'grpc',
    path: '/switchyard.v1.Data/Exchange',
    messageBytesMax: options.frameBytesMax ?? limits.frameBytesMax,
    pendingBytesMax: options.pendingBytesMax ?? limits.linkPendingBytesMax,
    windowBytes: options.windowBytes === undefined ? limits.grpcWindowBytes : options.windowBytes,
  };
  return {
    scheme: 'grpc',
    listen: async (address, linkOptions, accept) => {
      const listener = await serveStreams(target(address), kind, linkOptions, accept);
      return { address: `grpc://${listener.address}`, close: listener.close };
    },
    dial: async (address, linkOptions) => dialStream(target(address), kind, linkOptions),
  };
}

/** "grpc://10.0.0.1:4101" → "10.0.0.1:4101", checked. */
function target(address: string): string {
  const { host, port } = parseHostPort(address, 'grpc');
  return formatHostPort('grpc', host, port).slice('grpc://'.length);
}
