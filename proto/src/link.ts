import type { SwitchyardError } from './errors.ts';

/**
 * A reliable, ordered, bidirectional byte link between two workers. Frames (1 byte to `limits.frameBytesMax`) on one link arrive whole and in order, or the link closes; across links
 * nothing is promised. A frame is handed over as one Uint8Array which the receiver owns (it may alias the receive buffer of that frame alone, never
 * memory that a later frame reuses); it may give it back when it is done with it (`giveBackFrame`). `send` may keep the array until it is written: the
 * caller must not change it afterwards. A frame of `frameMemory` is given away: the link may give it back once it is written.
 *
 * `send` never blocks and never throws for a slow peer: when it returns false, wait for `drained` before the next frame (it also resolves when the link
 * closes). Sending on a closed link throws `link_closed`. A frame over `limits.frameBytesMax` throws `bad_frame` at the sender, and closes the link with that error at the receiver.
 * `onFrame` is set once, before the first await after the link was obtained; frames that arrive earlier are kept. It must not throw.
 * `closed` resolves once, with null after an orderly close by either side and the error otherwise; after it, or a call of `close`, no frame arrives, but for those that
 * were kept when the peer closed in order: they are the receiver's still. `close()` writes what was sent, then closes; `close(reason)` drops it and cuts the link: here
 * `closed` gives the reason, at the peer a `link_closed` error.
 */
export interface Link {
  /** What connects: 'memory' | 'shm' | 'uds' | 'tcp' | 'grpc' | 'nats'. */
  readonly transport: string;
  /** For people: the other end's address or name. */
  readonly peer: string;
  send(frame: Uint8Array): boolean;
  drained(signal?: AbortSignal): Promise<void>;
  onFrame(receive: (frame: Uint8Array) => void): void;
  /** No frame arrives until `resume`. What comes is kept up to `limits.linkEarlyBytesMax`, beyond which the peer is slowed down. */
  pause(): void;
  /** May hand over frames at once. */
  resume(): void;
  readonly closed: Promise<SwitchyardError | null>;
  close(reason?: SwitchyardError): Promise<void>;
  /** Bytes of frames so far, framing included. */
  readonly bytes: { readonly sent: number; readonly received: number };
  /** Bytes sent and not yet written: what `send`'s answer is about. */
  readonly pendingBytes: number;
}

export interface Listener {
  /** Where others dial, e.g. "uds:///run/x.sock", "tcp://127.0.0.1:4101", "grpc://10.0.0.1:4101", "shm:///run/x.shm", "nats://broker:4222/w0", "memory://w0". Port 0 is replaced by the real one. */
  readonly address: string;
  close(): Promise<void>;
}

/** PEM. A listener with `ca` demands client certificates signed by it (mTLS). */
export interface LinkTls {
  ca: Uint8Array | null;
  cert: Uint8Array | null;
  key: Uint8Array | null;
  /** Name that the server's certificate must carry, where it differs from the address dialled (one certificate for a cluster); null: the address. */
  serverName: string | null;
}

/** One implementation per scheme. `accept` is called for every incoming link after its handshake (magic, protocol version, shared token) succeeded. */
export interface Transport {
  readonly scheme: string;
  listen(address: string, options: LinkOptions, accept: (link: Link) => void): Promise<Listener>;
  dial(address: string, options: LinkOptions & { signal?: AbortSignal }): Promise<Link>;
}

export interface LinkOptions {
  /** Cluster token that both ends must share; compared in constant time. Empty: none. */
  token: string;
  tls: LinkTls | null;
}
