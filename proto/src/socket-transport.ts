/** The `tcp` and `uds` transports, and how `shm` links meet: framed links over sockets. With `tls`, `tcp` is TLS (mTLS where the listener has a `ca`); a Unix socket is guarded by its file mode. */
import { chmodSync } from 'node:fs';
import net from 'node:net';
import type { Duplex } from 'node:stream';
import tls from 'node:tls';
import { SwitchyardError } from './errors.ts';
import { FramedLink } from './framed-link.ts';
import { fullListener } from './full-listener.ts';
import { limits } from './limits.ts';
import type { LinkOptions, LinkTls, Listener, Transport } from './link.ts';
import { formatHostPort, parseHostPort, parseSocketPath } from './link-address.ts';
import { diallerHandshake, listenerHandshake } from './link-handshake.ts';
import { removeStaleSocket, socketRealm } from './unix-socket.ts';

export interface SocketTransportOptions {
  frameBytesMax: number;
  pendingBytesMax: number;
  /** Rows travel in the frames of this socket, so the next one is waited for awake (`lingering.ts`). */
  lingers: boolean;
}

/** `shm` links are introduced to each other over a Unix socket. */
type Scheme = 'tcp' | 'uds' | 'shm';

export function socketTransport(scheme: 'tcp' | 'uds', options: Partial<SocketTransportOptions> = {}): Transport {
  const bounds = { frameBytesMax: limits.frameBytesMax, pendingBytesMax: limits.linkPendingBytesMax, lingers: true, ...options };
  return {
    scheme,
    listen: (address, linkOptions, accept) => listenOnSocket(scheme, address, bounds, linkOptions, accept),
    dial: (address, linkOptions) => dialSocket(scheme, address, bounds, linkOptions),
  };
}

/** Takes the bytes of a socket. `target` says where the next ones belong, `received` and `push` answer false to stop reading. */
export interface SocketReceiver {
  target(): Uint8Array;
  received(bytes: number): boolean;
  push(chunk: Uint8Array): boolean;
  attach(socket: Duplex): void;
}

export async function listenOnSocket(
  scheme: Scheme,
  address: string,
  bounds: SocketTransportOptions,
  options: LinkOptions,
  accept: (link: FramedLink) => void,
): Promise<Listener> {
  const links = new Set<FramedLink>();
  let openLinks = 0;
  const incoming = (accepted: net.Socket) => {
    // Links are counted when they have shown that they belong here, and then told; connections that do not get that far stay for `dialTimeoutMs`.
    if (links.size >= 2 * limits.linksPerListenerMax) {
      accepted.destroy();
      return;
    }
    const peer = scheme === 'tcp' ? formatHostPort('tcp', accepted.remoteAddress ?? 'unknown', accepted.remotePort ?? 0) : address;
    const link = new FramedLink({
      transport: scheme,
      peer,
      ...bounds,
      handshake: listenerHandshake(scheme, options.token, () => fullListener(openLinks)),
      refuses: true,
    });
    links.add(link);
    void link.closed.then(() => links.delete(link));
    link.opened.then(
      () => {
        openLinks++;
        void link.closed.then(() => openLinks--);
        accept(link);
      },
      () => {}, // The dialler was told; here there is nobody to tell.
    );
    receiveInPlace(accepted, link);
  };
  const server = socketServer(scheme === 'tcp' ? options.tls : null, incoming);
  if (scheme === 'tcp') await listening(server, address, parseHostPort(address, 'tcp'));
  else {
    const path = parseSocketPath(address, scheme);
    await removeStaleSocket(path);
    await listening(server, address, { path });
  }
  return {
    address: listenedAddress(scheme, address, server),
    close: async () => {
      server.close();
      await Promise.all([...links].map((link) => link.close()));
    },
  };
}

/** Gives each connection to `incoming`, which hands it to `receiveInPlace`. */
export function socketServer(secured: LinkTls | null, incoming: (socket: net.Socket) => void, protocols: string[] = []): net.Server {
  if (secured === null) return net.createServer({ pauseOnConnect: true, noDelay: true }, incoming);
  const options = { ...listenerTls(secured), ...probed, noDelay: true, ALPNProtocols: protocols, handshakeTimeout: limits.dialTimeoutMs };
  const server = tls.createServer(options, (socket) => {
    // A connection may come out of the handshake of TLS after the listener has closed.
    if (server.listening) incoming(socket);
    else socket.destroy();
  });
  // Before that handshake it is no link yet, and counts as none.
  server.maxConnections = 2 * limits.linksPerListenerMax;
  // The dialler sees it; a listener goes on. Node leaves a socket open whose handshake took too long.
  return server.on('tlsClientError', (_error, socket) => socket.destroy());
}

/** A peer whose machine has vanished says nothing: the kernel asks. */
const probed = { keepAlive: true, keepAliveInitialDelay: limits.keepaliveTimeMs };

export function listening(server: net.Server, address: string, at: net.ListenOptions): Promise<void> {
  return new Promise((resolve, reject) => {
    const failed = (error: NodeJS.ErrnoException) => {
      const why = error.code === 'EADDRINUSE' ? 'something else listens there already' : error.message;
      reject(new SwitchyardError('link_closed', `cannot listen on ${address}: ${why}`, { cause: error }));
    };
    server.once('error', failed);
    server.listen(at, () => {
      server.off('error', failed);
      // One connection that could not be accepted (no descriptor, no memory) is not the end of the others.
      server.on('error', () => {});
      resolve();
    });
  });
}

function listenedAddress(scheme: Scheme, address: string, server: net.Server): string {
  if (scheme === 'tcp') return formatHostPort('tcp', parseHostPort(address, 'tcp').host, (server.address() as net.AddressInfo).port);
  const path = parseSocketPath(address, scheme);
  chmodSync(path, 0o600);
  return `${scheme}://${socketRealm()}${path}`;
}

export async function dialSocket(
  scheme: Scheme,
  address: string,
  bounds: SocketTransportOptions,
  options: LinkOptions & { signal?: AbortSignal },
): Promise<FramedLink> {
  const link = new FramedLink({
    transport: scheme,
    peer: address,
    ...bounds,
    handshake: diallerHandshake(scheme, options.token),
    refuses: false,
  });
  const aborted = () =>
    void link.close(new SwitchyardError('cancelled', `dialling ${address} was aborted`, { cause: options.signal!.reason }));
  connect(scheme, address, options.tls, link);
  if (options.signal?.aborted) aborted();
  options.signal?.addEventListener('abort', aborted, { once: true });
  try {
    await link.opened;
    return link;
  } finally {
    options.signal?.removeEventListener('abort', aborted);
  }
}

function connect(scheme: Scheme, address: string, secured: LinkTls | null, link: FramedLink): void {
  if (scheme === 'tcp') connectTcp(parseHostPort(address, 'tcp'), secured, link);
  else link.attach(net.connect({ path: parseSocketPath(address, scheme), onread: inPlace(link) }));
}

export function connectTcp(
  { host, port }: { host: string; port: number },
  secured: LinkTls | null,
  receiver: SocketReceiver,
  protocols: string[] = [],
): void {
  if (secured === null) {
    receiver.attach(net.connect({ host, port, noDelay: true, ...probed, onread: inPlace(receiver) }));
    return;
  }
  const servername = secured.serverName ?? (net.isIP(host) === 0 ? host : '');
  const socket = tls.connect({ host, port, servername, ALPNProtocols: protocols, ...certificates(secured) });
  socket.setNoDelay(true);
  socket.setKeepAlive(probed.keepAlive, probed.keepAliveInitialDelay); // `tls.connect` hands it to no socket
  receiveChunks(socket, receiver);
}

function inPlace(receiver: SocketReceiver): net.OnReadOpts {
  return { buffer: () => receiver.target(), callback: (bytes: number) => receiver.received(bytes) };
}

/**
 * Receives straight into the receiver's memory. Node offers that (`onread`) for sockets made by `new net.Socket` only, so the accepted one hands over its handle.
 * Where it cannot (TLS), chunks are copied.
 */
export function receiveInPlace(accepted: net.Socket, receiver: SocketReceiver): void {
  const holder = accepted as unknown as { _handle: object | null };
  if (accepted instanceof tls.TLSSocket || holder._handle == null) {
    receiveChunks(accepted, receiver);
    return;
  }
  const handle = holder._handle;
  holder._handle = null;
  const socket = new net.Socket({ handle, onread: inPlace(receiver) } as net.SocketConstructorOpts);
  socket.setKeepAlive(probed.keepAlive, probed.keepAliveInitialDelay);
  receiver.attach(socket);
  socket.resume();
}

function receiveChunks(socket: net.Socket, receiver: SocketReceiver): void {
  socket.on('data', (chunk: Buffer) => {
    if (!receiver.push(chunk)) socket.pause();
  });
  receiver.attach(socket);
}

function listenerTls(secured: LinkTls): tls.TlsOptions {
  if (secured.key === null || secured.cert === null)
    throw new SwitchyardError('invalid_request', 'tls.key and tls.cert are needed to listen');
  return { ...certificates(secured), requestCert: secured.ca !== null, rejectUnauthorized: secured.ca !== null };
}

function certificates(secured: LinkTls): tls.SecureContextOptions {
  return {
    ...(secured.ca === null ? {} : { ca: Buffer.from(secured.ca) }),
    ...(secured.cert === null ? {} : { cert: Buffer.from(secured.cert) }),
    ...(secured.key === null ? {} : { key: Buffer.from(secured.key) }),
  };
}
