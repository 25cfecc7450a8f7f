import type { Http2Server, ServerHttp2Session } from 'node:http2';
import type { Server, ServerCredentials } from '@grpc/grpc-js';
import { SwitchyardError } from './errors.ts';

/**
 * Sets the receive windows of a gRPC server: per stream by its HTTP/2 settings, per connection on each new session. @grpc/grpc-js (1.14) has an option for this
 * on the client only, and HTTP/2's default of 64 KiB caps a stream near 0.3 GB/s where 1.7 is possible, so the server's own factory is wrapped here, on this one
 * instance. A version without these two members is refused by name: silently slow would be worse.
 */
export function tuneServerWindows(server: Server, windowBytes: number): void {
  const inner = server as unknown as ServerInternals;
  if (typeof inner.createHttp2Server !== 'function' || typeof inner.commonServerOptions !== 'object')
    throw new SwitchyardError('internal', 'this version of @grpc/grpc-js does not let its server windows be set (wanted: 1.14)');
  inner.commonServerOptions.settings = { ...inner.commonServerOptions.settings, initialWindowSize: windowBytes };
  const create = inner.createHttp2Server.bind(server);
  inner.createHttp2Server = (credentials) => {
    const made = create(credentials);
    made.on('session', (session: ServerHttp2Session) => session.setLocalWindowSize(windowBytes));
    return made;
  };
}

interface ServerInternals {
  commonServerOptions: { settings?: { initialWindowSize?: number } };
  createHttp2Server: (credentials: ServerCredentials) => Http2Server;
}
