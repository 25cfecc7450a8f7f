/**
 * The `grpc` transport, the default between machines: a link is one bidirectional gRPC stream on a connection of its own. Node's HTTP/2 opens and ends it, its
 * messages take the lane beside it (`http2-lane.ts`). Any gRPC implementation can be the other end.
 */
import http2 from 'node:http2';
import type net from 'node:net';
import { status } from '@grpc/grpc-js';
import { SwitchyardError } from './errors.ts';
import { admissionMetadata, dialAborted, errorOf, refusalOf, refusedBy, statusOf } from './grpc-admission.ts';
import { GrpcLink } from './grpc-link.ts';
import { Http2Lane } from './http2-lane.ts';
import { limits } from './limits.ts';
import type { Link, LinkOptions, Listener, Transport } from './link.ts';
import { formatHostPort, parseHostPort } from './link-address.ts';
import { connectTcp, listening, receiveInPlace, socketServer } from './socket-transport.ts';

export interface GrpcTransportOptions {
  frameBytesMax: number;
  pendingBytesMax: number;
  /** When a silent connection is probed and given up. */
  keepalive: { timeMs: number; timeoutMs: number };
}

const PATH = '/switchyard.v1.Data/Exchange';
const CONTENT_TYPE = 'application/grpc';
const PROTOCOLS = ['h2'];
/** One is a link; a few more for a client that tries again while the one that was refused is not over. */
const STREAMS_MAX = 8;
/** How long a connection may outlive its link. */
const IDLE_CONNECTION_MS = 1_000;

export function grpcTransport(options: Partial<GrpcTransportOptions> = {}): Transport {
  const bounds = {
    frameBytesMax: limits.frameBytesMax,
    pendingBytesMax: limits.linkPendingBytesMax,
    keepalive: { timeMs: limits.keepaliveTimeMs, timeoutMs: limits.keepaliveTimeoutMs },
    ...options,
  };
  return {
    scheme: 'grpc',
    listen: (address, linkOptions, accept) => listen(address, bounds, linkOptions, accept),
    dial: (address, linkOptions) => dial(address, bounds, linkOptions),
  };
}

async function listen(
  address: string,
  bounds: GrpcTransportOptions,
  options: LinkOptions,
  accept: (link: Link) => void,
): Promise<Listener> {
  const { host, port } = parseHostPort(address, 'grpc');
  const lanes = new Set<Http2Lane>();
  const links = new Set<GrpcLink>();
  const admit = (link: GrpcLink) => {
    links.add(link);
    void link.closed.then(() => links.delete(link));
    accept(link);
  };
  const server = socketServer(
    options.tls,
    (socket) => {
      // Links are counted when they ask to be let in, and then told; connections that do not get that far stay for `dialTimeoutMs`.
      if (lanes.size >= 2 * limits.linksPerListenerMax) {
        socket.destroy();
        return;
      }
      const lane = serve(socket, bounds, (metadata) => refusalOf(metadata, options, links.size), admit);
      lanes.add(lane);
      lane.session.on('close', () => lanes.delete(lane));
    },
    PROTOCOLS,
  );
  await listening(server, address, { host, port });
  return {
    address: formatHostPort('grpc', host, (server.address() as net.AddressInfo).port),
    close: async () => {
      server.close();
      await Promise.all([...links].map((link) => link.close()));
      // Diallers close their connections once their streams have ended; whoever does not is cut off.
      const timer = setTimeout(() => {
        for (const lane of lanes) lane.destroy();
      }, IDLE_CONNECTION_MS);
      await Promise.all([...lanes].map((lane) => new Promise<void>((resolve) => lane.session.once('close', () => resolve()))));
      clearTimeout(timer);
    },
  };
}

/** The listener's end of a connection. */
function serve(
  socket: net.Socket,
  bounds: GrpcTransportOptions,
  refusal: (metadata: (key: string) => unknown) => SwitchyardError | null,
  accept: (link: GrpcLink) => void,
): Http2Lane {
  const peer = formatHostPort('grpc', socket.remoteAddress ?? 'unknown', socket.remotePort ?? 0);
  const lane = new Http2Lane('server');
  let begun: { id: number; link: GrpcLink } | null = null; // the stream that has the lane
  lane.onHeaders = (id) => {
    begun = { id, link: new GrpcLink(lane, peer, bounds) };
    return begun.link;
  };
  receiveInPlace(socket, lane);
  const session = http2.performServerHandshake(lane.session, {
    settings: { maxConcurrentStreams: STREAMS_MAX, maxFrameSize: limits.grpcWindowBytes, maxHeaderListSize: limits.grpcMetadataBytesMax },
  });
  session.on('error', ignore);
  keepAlive(lane, session, peer, bounds.keepalive);
  let idle = setTimeout(() => lane.destroy(), limits.dialTimeoutMs);
  session.on('close', () => clearTimeout(idle));
  session.on('stream', (stream: http2.ServerHttp2Stream, headers: http2.IncomingHttpHeaders) => {
    stream.on('error', ignore);
    if (begun === null || begun.id !== stream.id) {
      stream.close(http2.constants.NGHTTP2_REFUSED_STREAM);
      return;
    }
    const { id, link } = begun;
    const ended = () => {
      link.broken();
      lane.release(id);
    };
    // It is told of a turn after its headers came: what came with them may have ended it, and an ended stream cannot be answered.
    if (stream.destroyed || stream.closed) {
      ended();
      return;
    }
    stream.on('close', ended);
    stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': status.OK }));
    stream.resume().on('end', () => {
      if (link.peerFinished) link.peerEnded(null);
    });
    const refused =
      headers[':path'] === PATH && headers[':method'] === 'POST'
        ? refusal((key) => headers[key])
        : new SwitchyardError('not_found', `there is no method ${headers[':path']} here`);
    if (refused !== null) {
      lane.release(id);
      const trailers = { 'grpc-status': statusOf(refused), 'grpc-message': encodeURI(refused.message) };
      stream.respond({ ':status': 200, 'content-type': CONTENT_TYPE, ...trailers }, { endStream: true });
      return;
    }
    stream.respond({ ':status': 200, 'content-type': CONTENT_TYPE }, { waitForTrailers: true });
    lane.afterNextWrite(() => {
      clearTimeout(idle);
      void link.closed.then(() => {
        if (!session.destroyed) idle = setTimeout(() => lane.destroy(), limits.closeTimeoutMs);
      });
      link.accepted(stream);
      accept(link);
    });
  });
  return lane;
}

/** @throws SwitchyardError `unauthorized`, `version_mismatch`, or `link_closed` when nobody answers in time. */
function dial(address: string, bounds: GrpcTransportOptions, options: LinkOptions & { signal?: AbortSignal }): Promise<Link> {
  const { signal } = options;
  const at = parseHostPort(address, 'grpc');
  if (signal?.aborted) return Promise.reject(dialAborted(address, signal));
  const lane = new Http2Lane('client');
  const link = new GrpcLink(lane, address, bounds);
  connectTcp(at, options.tls, lane, PROTOCOLS);
  lane.open(1, link); // a client's first stream, and here its only one
  const session = http2.connect('http://unused', {
    createConnection: () => lane.session,
    settings: { enablePush: false, maxFrameSize: limits.grpcWindowBytes, maxHeaderListSize: limits.grpcMetadataBytesMax },
  });
  session.on('error', ignore);
  const stream = session.request({
    ':method': 'POST',
    ':scheme': options.tls === null ? 'http' : 'https',
    ':authority': options.tls?.serverName ?? formatHostPort('', at.host, at.port).slice('://'.length),
    ':path': PATH,
    'content-type': CONTENT_TYPE,
    te: 'trailers',
    ...admissionMetadata(options),
  });
  const statusIn = (headers: http2.IncomingHttpHeaders, failure: typeof errorOf) => {
    const code = Number(headers['grpc-status'] ?? status.UNKNOWN);
    return code === status.OK ? null : failure(code, decoded(headers['grpc-message']), address);
  };
  stream.on('error', ignore).resume();
  stream.on('trailers', (headers: http2.IncomingHttpHeaders) => link.peerEnded(statusIn(headers, errorOf)));
  // Without trailers too the peer's side is over, a proxy's say; this side would stay open.
  stream.on('end', () => {
    if (link.peerFinished) link.peerEnded(new SwitchyardError('link_closed', `${address} ended the call without a status`));
  });
  stream.on('close', () => link.broken());
  // Whatever ends the link before it was accepted is why the dial failed.
  const giveUp = (reason: SwitchyardError) => void link.close(reason);
  const aborted = () => giveUp(dialAborted(address, signal!));
  const timer = setTimeout(
    () => giveUp(new SwitchyardError('link_closed', `${address} did not answer within ${limits.dialTimeoutMs} ms`)),
    limits.dialTimeoutMs,
  );
  signal?.addEventListener('abort', aborted, { once: true });
  void link.closed.then(() => {
    session.close();
    if (lane.session.destroyed) return;
    const late = setTimeout(() => lane.destroy(), IDLE_CONNECTION_MS);
    lane.session.once('close', () => clearTimeout(late));
  });
  return new Promise((resolve, reject) => {
    const done = () => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', aborted);
    };
    void link.closed.then((error) => {
      done();
      reject(error ?? new SwitchyardError('link_closed', `${address} closed the link before it opened`));
    });
    stream.once('response', (headers) => {
      if (headers[':status'] !== 200)
        giveUp(new SwitchyardError('link_closed', `${address} answered with HTTP status ${headers[':status']}`));
      else if (headers['grpc-status'] !== undefined)
        giveUp(statusIn(headers, refusedBy) ?? new SwitchyardError('link_closed', `${address} ended at once`));
      else {
        done();
        link.accepted(stream);
        keepAlive(lane, session, address, bounds.keepalive);
        resolve(link);
      }
    });
  });
}

/** A connection on which nothing arrives is probed, and cut where nothing arrives then either. */
function keepAlive(
  lane: Http2Lane,
  session: http2.Http2Session,
  peer: string,
  { timeMs, timeoutMs }: { timeMs: number; timeoutMs: number },
): void {
  let late: NodeJS.Timeout | null = null;
  const timer = setInterval(() => {
    if (lane.heard) {
      lane.heard = false;
      clearTimeout(late ?? undefined);
      late = null;
    } else if (late === null && !session.destroyed) {
      session.ping(ignore);
      late = setTimeout(() => {
        late = null;
        // Where this process stood still, what the peer said lies unread: the sockets' turn comes before that of immediates.
        setImmediate(() => {
          if (!lane.heard) lane.destroy(new SwitchyardError('link_closed', `${peer} has been silent for ${timeMs + timeoutMs} ms`));
        });
      }, timeoutMs);
    }
  }, timeMs);
  lane.session.once('close', () => {
    clearInterval(timer);
    clearTimeout(late ?? undefined);
  });
}

/** A status message is percent-encoded; one that is not stays as it came. */
function decoded(message: string | string[] | undefined): string {
  const text = String(message ?? '');
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function ignore(): void {}
