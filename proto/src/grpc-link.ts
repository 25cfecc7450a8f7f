import type { Http2Stream } from 'node:http2';
import { closedInTime } from './closed-in-time.ts';
import { SwitchyardError } from './errors.ts';
import { FrameInbox } from './frame-inbox.ts';
import { checkFrameLength } from './frame-length.ts';
import { giveBackFrame } from './frame-memory.ts';
import { MESSAGE_PREFIX_BYTES, MessageReader, messagePrefix } from './grpc-messages.ts';
import { type Http2Lane, INITIAL_WINDOW_BYTES, type LaneStream } from './http2-lane.ts';
import { limits } from './limits.ts';
import { frameArrived, frameSent } from './lingering.ts';
import type { Link } from './link.ts';
import { SendWindow } from './send-window.ts';

export interface GrpcLinkBounds {
  frameBytesMax: number;
  pendingBytesMax: number;
}

/**
 * One gRPC call as a Link: its messages are frames. The ends of the call and its status are the HTTP/2 stream's, messages go through the lane. Exists from the first
 * HEADERS of the stream, so that nothing is lost that follows them at once, and is a link once `accepted`.
 */
export class GrpcLink implements Link, LaneStream {
  readonly transport = 'grpc';
  readonly peer: string;
  readonly closed: Promise<SwitchyardError | null>;
  readonly bytes = { sent: 0, received: 0 };
  peerFinished = false;
  readonly #lane: Http2Lane;
  readonly #bounds: GrpcLinkBounds;
  readonly #window: SendWindow;
  readonly #inbox = new FrameInbox(limits.linkEarlyBytesMax);
  readonly #reader: MessageReader;
  readonly #queue: { frame: Uint8Array; sentBytes: number }[] = []; // not yet taken by the peer's window, prefixes included
  #early: Buffer | null = null; // what came before both sides had agreed: HTTP/2's first window bounds it
  #earlyBytes = 0;
  #stream: Http2Stream | null = null;
  #settle!: (error: SwitchyardError | null) => void;
  #state: 'asked' | 'open' | 'closing' | 'closed' = 'asked';
  #finishing = false;
  #paused = false;
  #roomBytes = 0; // the peer takes of this stream; below zero where it took an offer back
  #allowedBytes = INITIAL_WINDOW_BYTES; // the peer may send
  #owedBytes = 0; // of those it sent, not yet allowed again

  constructor(lane: Http2Lane, peer: string, bounds: GrpcLinkBounds) {
    this.peer = peer;
    this.#lane = lane;
    this.#bounds = bounds;
    this.#window = new SendWindow(bounds.pendingBytesMax);
    this.#reader = new MessageReader(bounds.frameBytesMax, (frame) => this.#received(frame));
    this.closed = new Promise((resolve) => {
      this.#settle = resolve;
    });
  }

  /** Both sides have agreed, and their HEADERS are written. */
  accepted(stream: Http2Stream): void {
    this.#stream = stream;
    this.#state = 'open';
    this.#owedBytes += limits.grpcWindowBytes - INITIAL_WINDOW_BYTES;
    this.#grant();
    this.#takeEarly();
  }

  get pendingBytes(): number {
    return this.#window.pendingBytes;
  }

  send(frame: Uint8Array): boolean {
    if (this.#state !== 'open') throw new SwitchyardError('link_closed', `the link to ${this.peer} is closed`);
    checkFrameLength(frame.length, this.#bounds.frameBytesMax);
    const bytes = frame.length + MESSAGE_PREFIX_BYTES;
    this.bytes.sent += bytes;
    frameSent(frame.length);
    const room = this.#window.add(bytes);
    this.#queue.push({ frame, sentBytes: 0 });
    this.pump();
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
      this.ended(reason);
      this.#lane.destroy(reason);
      return;
    }
    if (this.#state === 'open') {
      this.#state = 'closing';
      this.#resume();
      this.#finish();
    }
    await closedInTime(this);
  }

  /** The peer has ended the call in order, or for a reason that it gave. */
  peerEnded(error: SwitchyardError | null): void {
    this.ended(this.#state === 'closing' ? null : error);
    this.#resume();
    this.#finish();
  }

  /** The link is over; the connection may still have an end to write. */
  ended(error: SwitchyardError | null): void {
    if (this.#state === 'closed') return;
    this.#state = 'closed';
    if (error !== null) this.#inbox.stop();
    this.#window.close();
    this.#settle(error);
  }

  /** The stream is gone: whoever did not end it in order, or had not written all that was sent, has lost it. */
  broken(): void {
    const { cause } = this.#lane;
    const why = cause === undefined ? '' : `: ${cause.message}`;
    const error = cause instanceof SwitchyardError ? cause : new SwitchyardError('link_closed', `${this.peer} went away${why}`, { cause });
    this.ended(this.#state === 'closing' && this.#window.pendingBytes === 0 ? null : error);
  }

  begins(bytes: number): void {
    this.#allowedBytes -= bytes;
    if (this.#allowedBytes < 0) throw new SwitchyardError('bad_frame', `${this.peer} sends more than the stream's window allows`);
    this.#owedBytes += bytes;
    if (!this.#paused && this.#owedBytes >= limits.grpcWindowBytes / 4) this.#grant();
  }

  get prefixBytesLeft(): number {
    return this.#reader.prefixBytesLeft;
  }

  target(): Uint8Array {
    return this.#reader.target();
  }

  received(bytes: number): void {
    this.#reader.received(bytes);
  }

  /** Of a peer that is not let in yet bytes are kept as they are: no memory is reserved for what they announce. */
  push(piece: Uint8Array): void {
    if (this.#state !== 'asked') {
      this.#reader.push(piece);
      return;
    }
    this.#early ??= Buffer.allocUnsafeSlow(INITIAL_WINDOW_BYTES);
    this.#early.set(piece, this.#earlyBytes);
    this.#earlyBytes += piece.length;
  }

  credited(bytes: number): void {
    this.#roomBytes += bytes;
    if (this.#roomBytes > 2 ** 31 - 1) throw new SwitchyardError('bad_frame', `the window of ${this.peer}'s stream grew too large`);
    this.pump();
  }

  /** Sends what the peer has room for. */
  pump(): void {
    while (this.#queue.length > 0) {
      const { frame, sentBytes } = this.#queue[0];
      const bytes = frame.length + MESSAGE_PREFIX_BYTES;
      const taken = Math.min(bytes - sentBytes, this.#roomBytes, this.#lane.roomBytes);
      if (taken < 1) return;
      this.#roomBytes -= taken;
      this.#queue[0].sentBytes += taken;
      const prefix = sentBytes < MESSAGE_PREFIX_BYTES ? messagePrefix(frame.length).subarray(sentBytes, sentBytes + taken) : NOTHING;
      const body = frame.subarray(sentBytes + prefix.length - MESSAGE_PREFIX_BYTES, sentBytes + taken - MESSAGE_PREFIX_BYTES);
      const last = sentBytes + taken === bytes;
      if (last) this.#queue.shift();
      this.#lane.sendData(prefix, body, () => {
        if (!last) return;
        giveBackFrame(frame);
        if (this.#state !== 'closed') this.#window.remove(bytes);
      });
    }
    if (this.#finishing) this.#finish();
  }

  #takeEarly(): void {
    const early = this.#early?.subarray(0, this.#earlyBytes) ?? NOTHING;
    this.#early = null;
    try {
      this.#reader.push(early);
    } catch (error) {
      void this.close(error as SwitchyardError);
    }
  }

  /** Ends this side of the call once everything that was sent is written. */
  #finish(): void {
    this.#finishing = true;
    if (this.#queue.length === 0 && this.#stream !== null && !this.#stream.writableEnded) this.#stream.end();
  }

  #grant(): void {
    if (this.#owedBytes === 0) return;
    this.#lane.grant(this.#owedBytes);
    this.#allowedBytes += this.#owedBytes;
    this.#owedBytes = 0;
  }

  #resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.#grant();
  }

  #received(frame: Uint8Array): void {
    if (this.#state === 'closing' || this.#state === 'closed') return;
    this.bytes.received += frame.length + MESSAGE_PREFIX_BYTES;
    frameArrived(frame.length);
    if (!this.#inbox.deliver(frame, () => this.#resume())) this.#paused = true;
  }
}

const NOTHING = new Uint8Array(0);
