/**
 * The `grpc` transport, the default between machines. A link is two bidirectional streams, each on a connection of its own and used in one direction: frames
 * flow from dialler to listener on `up` and back on `down`. Large HTTP/2 windows, which bulk needs, are only safe that way (see `StreamKind.windowBytes`).
 */
import { randomUUID } from 'node:crypto';
import { SwitchyardError } from './errors.ts';
import { dialStream, type StreamKind, serveStreams } from './grpc-stream.ts';
import { limits } from './limits.ts';
import { frameArrived, frameSent } from './lingering.ts';
import type { Link, Transport } from './link.ts';
import { formatHostPort, parseHostPort } from './link-address.ts';

export interface GrpcTransportOptions {
  frameBytesMax: number;
  pendingBytesMax: number;
  /** null leaves HTTP/2's default of 64 KiB: for comparison. */
  windowBytes: number | null;
  /** When a silent connection is probed and given up. */
  keepalive: { timeMs: number; timeoutMs: number };
}

export function grpcTransport(options: Partial<GrpcTransportOptions> = {}): Transport {
  const kind: StreamKind = {
    transport: 'grpc',
    path: '/switchyard.v1.Data/Exchange',
    messageBytesMax: options.frameBytesMax ?? limits.frameBytesMax,
    pendingBytesMax: options.pendingBytesMax ?? limits.linkPendingBytesMax,
    windowBytes: options.windowBytes === undefined ? limits.grpcWindowBytes : options.windowBytes,
    ...(options.keepalive === undefined ? {} : { keepalive: options.keepalive }),
  };
  return {
    scheme: 'grpc',
    listen: async (address, linkOptions, accept) => {
      const listener = await serveStreams(target(address), kind, linkOptions, pairing(accept));
      return { address: `grpc://${listener.address}`, close: listener.close };
    },
    dial: async (address, linkOptions) => {
      const id = randomUUID();
      const up = await dialStream(target(address), kind, linkOptions, `up ${id}`);
      try {
        return new PairedLink(address, up, await dialStream(target(address), kind, linkOptions, `down ${id}`));
      } catch (error) {
        void up.close(error as SwitchyardError);
        throw error;
      }
    },
  };
}

/** Puts the two streams of a link together. The second is dialled after the first was accepted, so at most one of a link waits here. */
function pairing(accept: (link: Link) => void): (stream: Link, label: string) => void {
  const waiting = new Map<string, Link>(); // by id; its size is bounded by the streams a listener accepts
  return (stream, label) => {
    const [direction, id = ''] = label.split(' ');
    const up = waiting.get(id);
    if (direction === 'down' && up !== undefined) {
      waiting.delete(id);
      accept(new PairedLink(stream.peer, stream, up));
    } else if (direction === 'up' && id !== '' && up === undefined) {
      waiting.set(id, stream);
      const forget = () => {
        clearTimeout(timer);
        if (waiting.get(id) === stream) waiting.delete(id);
      };
      const timer = setTimeout(() => {
        if (waiting.get(id) === stream) void stream.close(new SwitchyardError('link_closed', `${stream.peer} opened half a link`));
      }, limits.dialTimeoutMs);
      void stream.closed.then(forget);
    } else
      void stream.close(
        new SwitchyardError('bad_frame', `stream label ${JSON.stringify(label.slice(0, 64))} pairs with none`, { param: 'label' }),
      );
  };
}

class PairedLink implements Link {
  readonly transport = 'grpc';
  readonly peer: string;
  readonly closed: Promise<SwitchyardError | null>;
  readonly #out: Link;
  readonly #in: Link;
  #closing = false;

  constructor(peer: string, out: Link, incoming: Link) {
    this.peer = peer;
    this.#out = out;
    this.#in = incoming;
    this.closed = this.#settled();
  }

  get bytes(): { sent: number; received: number } {
    return { sent: this.#out.bytes.sent, received: this.#in.bytes.received };
  }

  get pendingBytes(): number {
    return this.#out.pendingBytes;
  }

  send(frame: Uint8Array): boolean {
    if (this.#closing) throw new SwitchyardError('link_closed', `the link to ${this.peer} is closed`);
    const room = this.#out.send(frame);
    frameSent(frame.length);
    return room;
  }

  drained(signal?: AbortSignal): Promise<void> {
    return this.#out.drained(signal);
  }

  onFrame(receive: (frame: Uint8Array) => void): void {
    this.#in.onFrame((frame) => {
      frameArrived(frame.length);
      receive(frame);
    });
  }

  async close(reason?: SwitchyardError): Promise<void> {
    this.#closing = true;
    await Promise.all([this.#out.close(reason), this.#in.close(reason)]);
    await this.closed;
  }

  /** An error of either stream ends the link. The orderly end of one is followed by the other's, which may still bring frames. */
  async #settled(): Promise<SwitchyardError | null> {
    const first = await Promise.race([this.#out.closed, this.#in.closed]);
    this.#closing = true;
    let timer: NodeJS.Timeout | undefined;
    if (first !== null) this.#cut(first);
    else timer = setTimeout(() => this.#cut(new SwitchyardError('link_closed', `${this.peer} closed half a link`)), limits.closeTimeoutMs);
    const [out, incoming] = await Promise.all([this.#out.closed, this.#in.closed]);
    clearTimeout(timer);
    return first ?? out ?? incoming;
  }

  #cut(reason: SwitchyardError): void {
    void this.#out.close(reason);
    void this.#in.close(reason);
  }
}

/** "grpc://10.0.0.1:4101" → "10.0.0.1:4101", checked. */
function target(address: string): string {
  const { host, port } = parseHostPort(address, 'grpc');
  return formatHostPort('grpc', host, port).slice('grpc://'.length);
}
