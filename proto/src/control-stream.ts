/**
 * The control plane: one bidirectional gRPC stream per worker, whose life is the worker's membership. The coordinator serves, workers attach.
 *
 *   const server = await serveControl('127.0.0.1:4100', { token, tls: null }, (worker) => { worker.onMessage((m) => …); worker.send({ type: 'assign', … }); });
 *   const coordinator = await attachToCoordinator('127.0.0.1:4100', { token, tls: null });
 */
import type { FromWorker, ToWorker } from './control-messages.ts';
import { fromWorkerSchema, toWorkerSchema } from './control-schema.ts';
import { SwitchyardError } from './errors.ts';
import { checkFrameLength } from './frame-length.ts';
import { dialStream, type StreamKind, serveStreams } from './grpc-stream.ts';
import { limits } from './limits.ts';
import type { Link, LinkOptions, Listener } from './link.ts';
import { decodeUnion, encodeUnion, type UnionSchema } from './message-codec.ts';

/**
 * Messages arrive whole and in order, or the stream closes. `send` never blocks: when it answers false, whoever can should wait for `drained`. A sender that never
 * waits is cut off with `queue_full` once more than `limits.controlPendingBytesMax` and one largest message are unsent. Sending on a closed stream throws
 * `link_closed`. `onMessage` is set once, before the first await after the stream was obtained; it must not throw. A peer whose bytes do not parse is cut off with
 * `bad_frame`, as is a worker whose first message is longer than a hello may be. `closed` resolves once: null after an orderly close by either side, else the error.
 */
export interface ControlStream<Out, In> {
  readonly peer: string;
  readonly pendingBytes: number;
  send(message: Out): boolean;
  drained(signal?: AbortSignal): Promise<void>;
  onMessage(receive: (message: In) => void): void;
  readonly closed: Promise<SwitchyardError | null>;
  close(reason?: SwitchyardError): Promise<void>;
}

/** A worker as the coordinator sees it, and the reverse. */
export type WorkerStream = ControlStream<ToWorker, FromWorker>;
export type CoordinatorStream = ControlStream<FromWorker, ToWorker>;

const controlKind: StreamKind = {
  transport: 'grpc',
  path: '/switchyard.v1.Control/Attach',
  messageBytesMax: limits.controlMessageBytesMax,
  pendingBytesMax: limits.controlPendingBytesMax,
};

/**
 * @param address "host:port" (port 0: any, see the result's `address`) or "unix:/path".
 * @param accept called for every worker whose token and protocol version were accepted; its first message should be `hello`.
 */
export function serveControl(address: string, options: LinkOptions, accept: (worker: WorkerStream) => void): Promise<Listener> {
  return serveStreams(address, controlKind, options, (link) =>
    accept(new MessageStream(link, toWorkerSchema, fromWorkerSchema, limits.helloBytesMax)),
  );
}

/** @throws SwitchyardError `unauthorized`, `version_mismatch`, `cancelled`, or `link_closed` when nobody answers. Trying again is the caller's policy. */
export async function attachToCoordinator(address: string, options: LinkOptions & { signal?: AbortSignal }): Promise<CoordinatorStream> {
  return new MessageStream(
    await dialStream(address, controlKind, options),
    fromWorkerSchema,
    toWorkerSchema,
    limits.controlMessageBytesMax,
  );
}

class MessageStream<Out extends { type: string }, In extends { type: string }> implements ControlStream<Out, In> {
  readonly peer: string;
  readonly closed: Promise<SwitchyardError | null>;
  readonly #link: Link;
  readonly #out: UnionSchema<Out>;
  readonly #in: UnionSchema<In>;
  #nextBytesMax: number;

  /** @param firstBytesMax of the first message that arrives: what any peer may have parsed */
  constructor(link: Link, out: UnionSchema<Out>, incoming: UnionSchema<In>, firstBytesMax: number) {
    this.peer = link.peer;
    this.closed = link.closed;
    this.#link = link;
    this.#out = out;
    this.#in = incoming;
    this.#nextBytesMax = firstBytesMax;
  }

  get pendingBytes(): number {
    return this.#link.pendingBytes;
  }

  send(message: Out): boolean {
    const room = this.#link.send(encodeUnion(this.#out, message));
    if (this.#link.pendingBytes > limits.controlPendingBytesMax + limits.controlMessageBytesMax)
      void this.#link.close(new SwitchyardError('queue_full', `${this.peer} does not read: ${this.#link.pendingBytes} bytes are unsent`));
    return room;
  }

  drained(signal?: AbortSignal): Promise<void> {
    return this.#link.drained(signal);
  }

  onMessage(receive: (message: In) => void): void {
    this.#link.onFrame((frame) => {
      const message = this.#parse(frame);
      if (message !== null) receive(message);
    });
  }

  close(reason?: SwitchyardError): Promise<void> {
    return this.#link.close(reason);
  }

  #parse(frame: Uint8Array): In | null {
    try {
      checkFrameLength(frame.length, this.#nextBytesMax);
      this.#nextBytesMax = limits.controlMessageBytesMax;
      return decodeUnion(this.#in, frame);
    } catch (error) {
      void this.#link.close(error as SwitchyardError);
      return null;
    }
  }
}
