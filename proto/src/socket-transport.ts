/** The `tcp` and `uds` transports, and how `shm` links meet: framed links over sockets. With `tls`, `tcp` is TLS (mTLS where the listener has a `ca`); a Unix socket is guarded by its file mode. */
import { chmodSync } from 'node:fs';
import net from 'node:net';
import tls from 'node:tls';
import { SwitchyardError } from './errors.ts';
import { FramedLink } from './framed-link.ts';
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

export async function listenOnSocket(
  scheme: Scheme,
  address: string,
  bounds: SocketTransportOptions,
  options: LinkOptions,
  accept: (link: FramedLink) => void,
): Promise<Listener> {
  const links = new Set<FramedLink>();
  const incoming = (accepted: net.Socket) => {
    if (links.size >= limits.linksPerListenerMax) {
      accepted.destroy();
      return;
    }
    const peer = scheme === 'tcp' ? formatHostPort('tcp', accepted.remoteAddress ?? 'unknown', accepted.remotePort ?? 0) : address;
    const link = new FramedLink({
      transport: scheme,
      peer,
      ...bounds,
      handshake: listenerHandshake(scheme, options.token),
      refuses: true,
    });
    links.add(link);
    void link.closed.then(() => links.delete(link));
    link.opened.then(
      () => accept(link),
      () => {}, // The dialler was told; here there is nobody to tell.
    );
    receiveInPlace(accepted, link);
  };
  const secured = scheme === 'tcp' ? options.tls : null;
  const server =
    secured === null
      ? net.createServer({ pauseOnConnect: true, noDelay: scheme === 'tcp' }, incoming)
      : tls.createServer(listenerTls(secured), incoming);
  server.on('tlsClientError', () => {}); // The dialler sees it; a listener goes on.
  await new Promise<void>((resolve, reject) => {
    const failed = (error: Error) =>
      reject(new SwitchyardError('link_closed', `cannot listen on ${address}: ${error.message}`, { cause: error }));
    server.once('error', failed);
    const listening = () => {
      server.off('error', failed);
      resolve();
    };
    if (scheme === 'tcp') server.listen(parseHostPort(address, 'tcp'), listening);
    else {
      const path = parseSocketPath(address, scheme);
      removeStaleSocket(path).then(() => server.listen(path, listening), reject);
    }
  });
  return {
    address: listenedAddress(scheme, address, server),
    close: async () => {
      server.close();
      await Promise.all([...links].map((link) => link.close()));
    },
  };
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
  const onread = { buffer: () => link.target(), callback: (bytes: number) => link.received(bytes) };
  if (scheme !== 'tcp') {
    link.attach(net.connect({ path: parseSocketPath(address, scheme), onread }));
    return;
  }
  const { host, port } = parseHostPort(address, 'tcp');
  if (secured === null) {
    link.attach(net.connect({ host, port, noDelay: true, keepAlive: true, keepAliveInitialDelay: limits.keepaliveTimeMs, onread }));
    return;
  }
  const servername = secured.serverName ?? (net.isIP(host) === 0 ? host : '');
  const socket = tls.connect({ host, port, servername, ...certificates(secured) });
  socket.setNoDelay(true);
  receiveChunks(socket, link);
}

/**
 * Receives straight into the link's memory. Node offers that (`onread`) for sockets made by `new net.Socket` only, so the accepted one hands over its handle.
 * Where it cannot (TLS), chunks are copied.
 */
function receiveInPlace(accepted: net.Socket, link: FramedLink): void {
  const holder = accepted as unknown as { _handle: object | null };
  if (accepted instanceof tls.TLSSocket || holder._handle == null) {
    receiveChunks(accepted, link);
    return;
  }
  const handle = holder._handle;
  holder._handle = null;
  const onread = { buffer: () => link.target(), callback: (bytes: number) => link.received(bytes) };
  const socket = new net.Socket({ handle, onread } as net.SocketConstructorOpts);
  socket.setKeepAlive(true, limits.keepaliveTimeMs);
  link.attach(socket);
  socket.resume();
}

function receiveChunks(socket: net.Socket, link: FramedLink): void {
  socket.on('data', (chunk: Buffer) => {
    if (!link.push(chunk)) socket.pause();
  });
  link.attach(socket);
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
