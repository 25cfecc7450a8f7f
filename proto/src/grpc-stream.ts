/**
 * One bidirectional gRPC stream of byte messages as a Link: what the control plane is made of. The call's metadata carries the protocol version and the cluster
 * token; the server answers with its own metadata once it has accepted them. Flow-control windows stay at HTTP/2's 64 KiB: while a write of its own is unfinished,
 * Node's HTTP/2 does not read, so two ends that both fill the socket buffers wait for each other for ever. 64 KiB fits those buffers.
 */
import { chmodSync } from 'node:fs';
import type net from 'node:net';
import * as grpc from '@grpc/grpc-js';
import { closedInTime } from './closed-in-time.ts';
import { SwitchyardError } from './errors.ts';
import { FrameInbox } from './frame-inbox.ts';
import { badFrameLength, checkFrameLength } from './frame-length.ts';
import { admissionMetadata, dialAborted, errorOf, refusalOf, refusedBy, statusOf } from './grpc-admission.ts';
import { MESSAGE_PREFIX_BYTES } from './grpc-messages.ts';
import { limits } from './limits.ts';
import type { Link, LinkOptions, LinkTls, Listener } from './link.ts';
import { parseHostPort } from './link-address.ts';
import { SendWindow } from './send-window.ts';
import { listening, socketServer } from './socket-transport.ts';
import { removeStaleSocket } from './unix-socket.ts';

// What goes wrong is told by whoever it went wrong for; the library would write it to stderr besides.
if (process.env.GRPC_VERBOSITY === undefined) grpc.setLogVerbosity(grpc.logVerbosity.NONE);

/** What distinguishes one kind of stream from another; both ends must use the same. */
export interface StreamKind {
  transport: string;
  /** "/package.Service/Method" */
  path: string;
  messageBytesMax: number;
  /** Unsent bytes at which `send` answers false. */
  pendingBytesMax: number;
}

/** How long a connection may outlive its stream when the server closes: one that broke is never reported as closed by @grpc/grpc-js. */
const IDLE_CONNECTION_MS = 1_000;
/** No frame is empty. */
const GOODBYE = Buffer.alloc(0);

/** @param target "host:port" or "unix:/path" */
export async function serveStreams(
  target: string,
  kind: StreamKind,
  options: LinkOptions,
  accept: (link: Link) => void,
): Promise<Listener> {
  const server = new grpc.Server(channelOptions(kind));
  const links = new Set<Link>();
  server.register(
    kind.path,
    (call: grpc.ServerDuplexStream<Buffer, Uint8Array>) => {
      const refusal = refusalOf((key) => call.metadata.get(key)[0], options, links.size);
      if (refusal !== null) {
        call.emit('error', { code: statusOf(refusal), details: refusal.message });
        return;
      }
      call.sendMetadata(new grpc.Metadata());
      const link = new CallLink(kind, call, call.getPeer(), serverEnd(call));
      links.add(link);
      void link.closed.then(() => links.delete(link));
      accept(link);
    },
    asBuffer,
    asIs,
    'bidi',
  );
  // Sockets of our own, for their bounds: the library's would hold any number of connections, and wait two minutes for a handshake of TLS.
  const injector = server.createConnectionInjector(grpc.ServerCredentials.createInsecure());
  const sockets = socketServer(
    options.tls,
    (socket) => {
      injector.injectConnection(socket);
      socket.resume();
    },
    ['h2'],
  );
  // Streams are counted when they ask to be let in, and then told; connections that do not get that far stay for `dialTimeoutMs`.
  sockets.maxConnections = 2 * limits.linksPerListenerMax;
  const path = target.startsWith('unix:') ? target.slice('unix:'.length) : null;
  if (path === null) await listening(sockets, target, parseHostPort(`grpc://${target}`, 'grpc'));
  else {
    await removeStaleSocket(path);
    await listening(sockets, target, { path });
    // Before anybody knows of it: whatever the mask of files is, the owner alone may connect.
    chmodSync(path, 0o600);
  }
  return {
    address: path === null ? target.replace(/:\d+$/, `:${(sockets.address() as net.AddressInfo).port}`) : target,
    close: async () => {
      sockets.close();
      const down = new Promise<void>((resolve) => server.tryShutdown(() => resolve())); // and takes no new calls
      await Promise.all([...links].map((link) => link.close()));
      // Diallers close their connections once their streams have ended; whoever does not is cut off.
      let timer: NodeJS.Timeout | undefined;
      const late = new Promise<void>((resolve) => {
        timer = setTimeout(resolve, IDLE_CONNECTION_MS);
      });
      await Promise.race([down, late]);
      clearTimeout(timer);
      server.forceShutdown();
    },
  };
}

/** @throws SwitchyardError `unauthorized`, `version_mismatch`, or `link_closed` when nobody answers in time. */
export async function dialStream(target: string, kind: StreamKind, options: LinkOptions & { signal?: AbortSignal }): Promise<Link> {
  if (options.signal?.aborted) throw dialAborted(target, options.signal);
  const client = new grpc.Client(target, clientCredentials(options.tls), {
    ...channelOptions(kind),
    ...(options.tls?.serverName == null ? {} : { 'grpc.ssl_target_name_override': options.tls.serverName }),
  });
  const metadata = new grpc.Metadata();
  for (const [key, value] of Object.entries(admissionMetadata(options))) metadata.set(key, value);
  const call = client.makeBidiStreamRequest<Uint8Array, Buffer>(kind.path, asBuffer, asIs, metadata);
  return new Promise((resolve, reject) => {
    const fail = (error: SwitchyardError) => {
      done();
      call.cancel();
      client.close();
      reject(error);
    };
    const refused = (status: grpc.StatusObject) => fail(refusedBy(status.code, status.details, target));
    const aborted = () => fail(dialAborted(target, options.signal!));
    const timer = setTimeout(
      () => fail(new SwitchyardError('link_closed', `${target} did not answer within ${limits.dialTimeoutMs} ms`)),
      limits.dialTimeoutMs,
    );
    const accepted = () => {
      done();
      const link = new CallLink(kind, call, target, clientEnd(call));
      void link.closed.then(() => client.close());
      resolve(link);
    };
    const done = () => {
      clearTimeout(timer);
      options.signal?.removeEventListener('abort', aborted);
      call.off('status', refused).off('metadata', accepted);
    };
    options.signal?.addEventListener('abort', aborted, { once: true });
    call.on('error', ignore); // Every error is also a status, which is what is looked at.
    call.on('status', refused).on('metadata', accepted);
  });
}

type Call = grpc.ClientDuplexStream<Uint8Array, Buffer> | grpc.ServerDuplexStream<Buffer, Uint8Array>;

/** The two ends of a call close differently; everything else is the same. */
interface CallEnd {
  /** Sent before the half-close, because a server cannot tell a client that ended from one that was killed. The server's own goodbye is its status. */
  readonly goodbye: Buffer | null;
  /** Calls back once, with null if the peer ended in order. */
  whenEnded(settle: (error: SwitchyardError | null) => void): void;
  abort(reason: SwitchyardError): void;
}

function clientEnd(call: grpc.ClientDuplexStream<Uint8Array, Buffer>): CallEnd {
  return {
    goodbye: GOODBYE,
    whenEnded: (settle) => {
      call.on('status', (status: grpc.StatusObject) =>
        settle(status.code === grpc.status.OK ? null : errorOf(status.code, status.details, call.getPeer())),
      );
    },
    abort: () => call.cancel(),
  };
}

function serverEnd(call: grpc.ServerDuplexStream<Buffer, Uint8Array>): CallEnd {
  return {
    goodbye: null,
    whenEnded: (settle) => {
      const wentAway = () => settle(new SwitchyardError('link_closed', `${call.getPeer()} went away`));
      call.on('end', wentAway).on('cancelled', wentAway);
      call.on('error', (error) => settle(new SwitchyardError('link_closed', `${call.getPeer()}: ${error.message}`, { cause: error })));
    },
    abort: (reason) => call.emit('error', { code: grpc.status.ABORTED, details: reason.message }),
  };
}

class CallLink implements Link {
  readonly transport: string;
  readonly peer: string;
  readonly closed: Promise<SwitchyardError | null>;
  readonly bytes = { sent: 0, received: 0 };
  readonly #kind: StreamKind;
  readonly #call: Call;
  readonly #end: CallEnd;
  readonly #window: SendWindow;
  readonly #inbox = new FrameInbox(limits.linkEarlyBytesMax);
  #settle!: (error: SwitchyardError | null) => void;
  #state: 'open' | 'closing' | 'closed' = 'open';

  constructor(kind: StreamKind, call: Call, peer: string, end: CallEnd) {
    this.transport = kind.transport;
    this.peer = peer;
    this.#kind = kind;
    this.#call = call;
    this.#end = end;
    this.#window = new SendWindow(kind.pendingBytesMax);
    this.closed = new Promise((resolve) => {
      this.#settle = resolve;
    });
    call.on('data', (message: Buffer) => this.#received(message));
    call.on('error', ignore);
    end.whenEnded((error) => this.#ended(this.#state === 'closing' && this.#window.pendingBytes === 0 ? null : error));
  }

  get pendingBytes(): number {
    return this.#window.pendingBytes;
  }

  send(frame: Uint8Array): boolean {
    if (this.#state !== 'open') throw new SwitchyardError('link_closed', `the link to ${this.peer} is closed`);
    checkFrameLength(frame.length, this.#kind.messageBytesMax);
    const bytes = frame.length + MESSAGE_PREFIX_BYTES;
    this.bytes.sent += bytes;
    const room = this.#window.add(bytes);
    this.#call.write(frame, () => {
      if (this.#state !== 'closed') this.#window.remove(bytes);
    });
    return room;
  }

  drained(signal?: AbortSignal): Promise<void> {
    return this.#window.drained(signal);
  }

  onFrame(receive: (frame: Uint8Array) => void): void {
    this.#inbox.onFrame(receive);
  }

  pause(): void {
    this.#inbox.pause();
  }

  resume(): void {
    this.#inbox.resume();
  }

  async close(reason?: SwitchyardError): Promise<void> {
    this.#inbox.stop();
    if (this.#state === 'closed') return;
    if (reason !== undefined) {
      this.#ended(reason);
      this.#end.abort(reason);
      return;
    }
    if (this.#state === 'open') {
      this.#state = 'closing';
      if (this.#end.goodbye !== null) this.#call.write(this.#end.goodbye);
      this.#call.end();
      this.#call.resume();
    }
    await closedInTime(this);
  }

  #received(message: Buffer): void {
    if (message.length === 0) {
      this.#call.end();
      this.#ended(null);
      return;
    }
    if (this.#state !== 'open') return;
    this.bytes.received += message.length + MESSAGE_PREFIX_BYTES;
    if (message.length > this.#kind.messageBytesMax) {
      void this.close(badFrameLength(message.length, this.#kind.messageBytesMax));
      return;
    }
    if (!this.#inbox.deliver(message, () => this.#call.resume())) this.#call.pause();
  }

  #ended(error: SwitchyardError | null): void {
    if (this.#state === 'closed') return;
    this.#state = 'closed';
    if (error !== null) this.#inbox.stop();
    this.#window.close();
    this.#settle(error);
  }
}

function channelOptions(kind: StreamKind): grpc.ChannelOptions {
  return {
    'grpc.keepalive_time_ms': limits.keepaliveTimeMs,
    'grpc.keepalive_timeout_ms': limits.keepaliveTimeoutMs,
    'grpc.keepalive_permit_without_calls': 1,
    // Our own check comes first, with our own error; gRPC's closes what is far beyond it before it is held in memory.
    'grpc.max_receive_message_length': kind.messageBytesMax + 1024 * 1024,
    'grpc.max_send_message_length': -1,
    'grpc.enable_retries': 0, // A stream that breaks is the caller's to replace; buffering for retries costs a copy.
    'grpc.use_local_subchannel_pool': 1, // One connection per link, so that links do not share a window.
    'grpc.max_connection_idle_ms': limits.dialTimeoutMs, // A listener lets go of whoever connects and asks for nothing.
    'grpc.max_concurrent_streams': 8, // A connection carries one; a few more for a dialler that tries again.
    'grpc.enable_http_proxy': 0, // Workers dial workers, never through a web proxy of the environment.
    'grpc.service_config_disable_resolution': 1,
    'grpc.enable_channelz': 0,
  };
}

function clientCredentials(tls: LinkTls | null): grpc.ChannelCredentials {
  if (tls === null) return grpc.credentials.createInsecure();
  return grpc.credentials.createSsl(buffer(tls.ca), buffer(tls.key), buffer(tls.cert));
}

function buffer(bytes: Uint8Array | null): Buffer | null {
  return bytes === null ? null : asBuffer(bytes);
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function asIs(bytes: Buffer): Buffer {
  return bytes;
}

function ignore(): void {}
