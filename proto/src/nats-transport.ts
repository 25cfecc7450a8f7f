/**
 * The `nats` transport, for places where a broker is all that two workers both reach. A framed link over two subjects below the listener's prefix, chosen by the
 * dialler: `<prefix>.<id>.up` and `<prefix>.<id>.down`; `<prefix>.dial` is where it asks. Every byte passes through the server, so this is the last resort.
 * The client library is loaded when the first address of this kind is used.
 */
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ConnectionOptions, Msg, NatsConnection, TlsOptions } from '@nats-io/transport-node';
import { SwitchyardError } from './errors.ts';
import { FramedLink } from './framed-link.ts';
import { fullListener } from './full-listener.ts';
import { limits } from './limits.ts';
import type { Link, LinkOptions, LinkTls, Listener, Transport } from './link.ts';
import { parseNatsAddress } from './link-address.ts';
import { diallerHandshake, listenerHandshake, refusalFrame, refusalOf } from './link-handshake.ts';
import { NatsStream, type NatsStreamBounds } from './nats-stream.ts';

export interface NatsTransportOptions extends NatsStreamBounds {
  frameBytesMax: number;
  pendingBytesMax: number;
  /** How long the server, and then the listener, may take to answer. The client library notices a certificate that was turned down only by this. */
  dialTimeoutMs: number;
}

const SCHEME = 'nats';
const ID_PATTERN = /^[0-9a-f]{32}$/;
const RECONNECT_MS = 500;

export function natsTransport(options: Partial<NatsTransportOptions> = {}): Transport {
  const bounds: NatsTransportOptions = {
    frameBytesMax: limits.frameBytesMax,
    pendingBytesMax: limits.linkPendingBytesMax,
    windowBytes: limits.natsWindowBytes,
    heartbeatMs: limits.natsHeartbeatMs,
    heartbeatsMissedMax: limits.natsHeartbeatsMissedMax,
    dialTimeoutMs: limits.dialTimeoutMs,
    ...options,
  };
  return {
    scheme: SCHEME,
    listen: (address, linkOptions, accept) => listen(address, bounds, linkOptions, accept),
    dial: (address, linkOptions) => dial(address, bounds, linkOptions),
  };
}

async function listen(
  address: string,
  bounds: NatsTransportOptions,
  options: LinkOptions,
  accept: (link: Link) => void,
): Promise<Listener> {
  const { server, prefix } = parseNatsAddress(address);
  const links = new Set<FramedLink>();
  const open = () => connect(server, options.tls, bounds.dialTimeoutMs);
  let connection = await open();
  const ending = new AbortController();
  let openLinks = 0;

  const serve = () =>
    connection.subscribe(`${prefix}.dial`, {
      queue: 'listener', // Two listeners by mistake: one of them answers.
      callback: (error, message) => {
        if (error === null) answer(message);
      },
    });
  const answer = (message: Msg) => {
    const id = message.string();
    if (ending.signal.aborted) {
      message.respond(refusalFrame(new SwitchyardError('link_closed', 'the listener is closing')));
      return;
    }
    if (!ID_PATTERN.test(id)) {
      message.respond(refusalFrame(badId(id)));
      return;
    }
    // Links are counted when they have shown that they belong here, and then told; those that do not get that far stay for `dialTimeoutMs`.
    if (links.size >= 2 * limits.linksPerListenerMax) {
      message.respond(refusalFrame(new SwitchyardError('queue_full', 'too many links are being opened')));
      return;
    }
    const stream = new NatsStream(connection, `${prefix}.${id}.down`, `${prefix}.${id}.up`, bounds);
    const link = framed(
      stream,
      `${address} ${id.slice(0, 8)}`,
      bounds,
      listenerHandshake(SCHEME, options.token, () => fullListener(openLinks)),
      true,
    );
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
    message.respond();
  };

  await refuseTwo(connection, prefix, address);
  serve();
  await connection.flush();
  // The client reconnects for ever, but some failures end it all the same: then there is a new one.
  const supervised = (async () => {
    while (!ending.signal.aborted) {
      await connection.closed();
      while (!ending.signal.aborted && connection.isClosed()) {
        await sleep(RECONNECT_MS, undefined, { signal: ending.signal }).catch(() => {});
        if (ending.signal.aborted) return;
        const next = await open().catch(() => null);
        if (next === null) continue;
        if (ending.signal.aborted) {
          await next.close(); // It came too late.
          return;
        }
        connection = next;
        serve();
      }
    }
  })();
  return {
    address,
    close: async () => {
      ending.abort();
      await Promise.all([...links].map((link) => link.close()));
      await hangUp(connection);
      await supervised;
    },
  };
}

async function dial(address: string, bounds: NatsTransportOptions, options: LinkOptions & { signal?: AbortSignal }): Promise<Link> {
  const { server, prefix } = parseNatsAddress(address);
  const cancelled = () => new SwitchyardError('cancelled', `dialling ${address} was aborted`, { cause: options.signal?.reason });
  if (options.signal?.aborted) throw cancelled();
  const connection = await whileWanted(connect(server, options.tls, bounds.dialTimeoutMs), options.signal).catch((error) => {
    throw options.signal?.aborted ? cancelled() : error;
  });
  let stream: NatsStream | null = null;
  let link: FramedLink | null = null;
  const aborted = () => {
    if (link !== null) void link.close(cancelled());
    void connection.close();
  };
  options.signal?.addEventListener('abort', aborted, { once: true });
  if (options.signal?.aborted) aborted();
  try {
    const id = randomBytes(16).toString('hex');
    stream = new NatsStream(connection, `${prefix}.${id}.up`, `${prefix}.${id}.down`, bounds);
    stream.on('error', ignore);
    const answer = await connection.request(`${prefix}.dial`, id, { timeout: bounds.dialTimeoutMs });
    if (answer.data.length > 0) throw refusalOf(answer.data);
    if (stream.errored !== null) throw stream.errored;
    link = framed(stream, address, bounds, diallerHandshake(SCHEME, options.token), false);
    stream.once('close', () => void hangUp(connection));
    await link.opened;
    return link;
  } catch (error) {
    stream?.destroy();
    void connection.close();
    if (options.signal?.aborted) throw cancelled();
    throw failure(error, `nobody listens on ${address}`);
  } finally {
    options.signal?.removeEventListener('abort', aborted);
  }
}

function framed(
  stream: NatsStream,
  peer: string,
  bounds: NatsTransportOptions,
  handshake: ReturnType<typeof diallerHandshake>,
  refuses: boolean,
): FramedLink {
  const { frameBytesMax, pendingBytesMax } = bounds;
  const link = new FramedLink({ transport: SCHEME, peer, frameBytesMax, pendingBytesMax, handshake, refuses, lingers: false });
  stream.on('data', (chunk: Buffer) => {
    if (!link.push(chunk)) stream.pause();
  });
  link.attach(stream);
  stream.startBeating();
  return link;
}

/** A prefix has one listener, as a port has: the one that is there answers any question. */
async function refuseTwo(connection: NatsConnection, prefix: string, address: string): Promise<void> {
  const answered = await connection.request(`${prefix}.dial`, '', { timeout: limits.dialTimeoutMs }).then(
    () => true,
    () => false,
  );
  if (!answered) return;
  await connection.close();
  throw new SwitchyardError('link_closed', `cannot listen on ${address}: the subject is in use`);
}

function badId(id: string): SwitchyardError {
  return new SwitchyardError('bad_frame', `link id ${JSON.stringify(id.slice(0, 32))} is not 32 hexadecimal digits`, { param: 'id' });
}

/** @throws SwitchyardError `link_closed` when the server cannot be reached now; once it was, the client goes on trying for ever */
async function connect(server: string, secured: LinkTls | null, timeout: number): Promise<NatsConnection> {
  const nats = await import('@nats-io/transport-node');
  const options: ConnectionOptions = {
    servers: server,
    timeout,
    maxReconnectAttempts: -1,
    reconnectTimeWait: RECONNECT_MS,
    pingInterval: limits.keepaliveTimeMs,
    maxPingOut: 2,
    ...(secured === null ? {} : { tls: tlsOptions(secured) }),
  };
  try {
    return await nats.connect(options);
  } catch (error) {
    throw failure(error, `no NATS server on ${server}`);
  }
}

/** The client library cannot be told that nobody wants the connection any more: what comes of it then is closed. @throws as soon as that is so */
async function whileWanted(connecting: Promise<NatsConnection>, signal: AbortSignal | undefined): Promise<NatsConnection> {
  if (signal === undefined) return connecting;
  let unwanted = ignore;
  const aborted = new Promise<never>((_, reject) => {
    unwanted = () => {
      connecting.then((connection) => connection.close(), ignore);
      reject(signal.reason);
    };
  });
  signal.addEventListener('abort', unwanted, { once: true });
  try {
    return await Promise.race([connecting, aborted]);
  } finally {
    signal.removeEventListener('abort', unwanted);
  }
}

function tlsOptions(secured: LinkTls): TlsOptions {
  return {
    ...(secured.ca === null ? {} : { ca: text(secured.ca) }),
    ...(secured.cert === null ? {} : { cert: text(secured.cert) }),
    ...(secured.key === null ? {} : { key: text(secured.key) }),
    ...(secured.serverName === null ? {} : { servername: secured.serverName }),
  } as TlsOptions;
}

async function hangUp(connection: NatsConnection): Promise<void> {
  if (connection.isClosed()) return;
  const late = sleep(limits.closeTimeoutMs, undefined, { ref: false });
  await Promise.race([connection.flush().catch(ignore), late]);
  await connection.close();
}

function failure(error: unknown, what: string): SwitchyardError {
  if (error instanceof SwitchyardError) return error;
  const { message, cause } = error as Error;
  return new SwitchyardError('link_closed', `${what}: ${cause instanceof Error ? cause.message : message}`, { cause: error });
}

function text(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString();
}

function ignore(): void {}
