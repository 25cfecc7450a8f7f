import { SwitchyardError } from './errors.ts';
import { FrameInbox } from './frame-inbox.ts';
import { checkFrameLength } from './frame-length.ts';
import { giveBackFrame } from './frame-memory.ts';
import { FrameReader, GOODBYE, PREFIX_BYTES, writePrefix } from './frame-reader.ts';
import type { FramedLink } from './framed-link.ts';
import { limits } from './limits.ts';
import { frameArrived, frameSent, isLingering } from './lingering.ts';
import type { Link } from './link.ts';
import { SendWindow } from './send-window.ts';
import type { SharedRegion } from './shared-region.ts';
import { type RingNumber, RingReader, RingWriter } from './shared-ring.ts';

/** Bytes copied before the other side hears of them: while one copies the next piece of a large frame, the other copies this one. */
const PIECE_BYTES = 128 * 1024;
/** Bytes taken out of the ring in one turn of the event loop: a busy peer must not keep everybody else waiting. */
const TURN_BYTES_MAX = 4 * 1024 * 1024;

/** A frame or the goodbye on its way into the ring. */
interface Outgoing {
  /** Null: the goodbye. */
  frame: Uint8Array | null;
  /** What is left to write: prefix, frame. */
  parts: Uint8Array[];
  /** Bytes of the first part already written. */
  at: number;
  /** What the send window holds for it. */
  windowBytes: number;
}

/**
 * A Link through two rings of shared memory. Frames travel as on a framed stream (`frame-reader.ts`). The socket that introduced the two processes stays: it
 * carries wake-ups, which are sent only to a side that sleeps, and its end tells of the other's death.
 */
export class SharedMemoryLink implements Link {
  readonly transport = 'shm';
  readonly peer: string;
  readonly closed: Promise<SwitchyardError | null>;
  readonly bytes = { sent: 0, received: 0 };
  readonly #control: FramedLink;
  readonly #region: SharedRegion;
  readonly #frameBytesMax: number;
  readonly #pendingBytesMax: number;
  readonly #out: RingWriter;
  readonly #in: RingReader;
  readonly #reader: FrameReader;
  readonly #window: SendWindow;
  readonly #inbox = new FrameInbox(limits.linkEarlyBytesMax);
  readonly #queue: Outgoing[] = [];
  #settle!: (error: SwitchyardError | null) => void;
  #state: 'open' | 'closing' | 'closed' = 'open';
  #paused = false;
  #draining = false;
  #lingered = false;
  #scheduled = false;
  #timer: NodeJS.Timeout | undefined;

  /** @param writes the ring that this end sends into */
  constructor(
    control: FramedLink,
    region: SharedRegion,
    writes: RingNumber,
    bounds: { frameBytesMax: number; pendingBytesMax: number; ringBytes: number },
  ) {
    this.peer = control.peer;
    this.#control = control;
    this.#region = region;
    this.#frameBytesMax = bounds.frameBytesMax;
    this.#pendingBytesMax = bounds.pendingBytesMax;
    this.#out = new RingWriter(region.memory, writes, bounds.ringBytes);
    this.#in = new RingReader(region.memory, writes === 0 ? 1 : 0, bounds.ringBytes);
    this.#window = new SendWindow(bounds.pendingBytesMax);
    this.#reader = new FrameReader(bounds.frameBytesMax, {
      frame: (frame) => this.#received(frame),
      goodbye: () => this.#farewell(),
    });
    this.closed = new Promise((resolve) => {
      this.#settle = resolve;
    });
    void control.closed.then((error) => {
      const orderly = error === null && this.#state === 'closing';
      this.#ended(orderly ? null : (error ?? new SwitchyardError('link_closed', `${this.peer} went away without a goodbye`)));
    });
    this.#later(); // The peer may have sent already, and wakes only who said that it sleeps.
  }

  get pendingBytes(): number {
    return this.#window.pendingBytes;
  }

  send(frame: Uint8Array): boolean {
    if (this.#state !== 'open') throw new SwitchyardError('link_closed', `the link to ${this.peer} is closed`);
    checkFrameLength(frame.length, this.#frameBytesMax);
    const bytes = frame.length + PREFIX_BYTES;
    this.bytes.sent += bytes;
    frameSent(bytes);
    const room = this.#window.add(bytes);
    this.#queue.push({ frame, parts: [writePrefix(frame.length), frame], at: 0, windowBytes: bytes });
    if (this.#queue.length === 1) this.#guarded(() => this.#pump());
    return room || this.#window.pendingBytes < this.#pendingBytesMax;
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
      this.#fail(reason);
      return;
    }
    if (this.#state === 'open') {
      this.#state = 'closing';
      this.#queue.push({ frame: null, parts: [writePrefix(GOODBYE)], at: 0, windowBytes: 0 });
      this.#timer = setTimeout(
        () => this.#fail(new SwitchyardError('link_closed', `${this.peer} did not close within ${limits.closeTimeoutMs} ms`)),
        limits.closeTimeoutMs,
      );
      this.#guarded(() => this.#pump());
      this.#resume();
    }
    await this.closed;
  }

  /** The peer says that there is something to read, or room to write again. */
  woken(): void {
    this.#guarded(() => {
      this.#pump();
      this.#drain();
    });
  }

  /** Writes what is queued until the ring is full. */
  #pump(): void {
    while (this.#queue.length > 0 && this.#state !== 'closed') {
      const next = this.#queue[0];
      if (!this.#write(next)) return;
      this.#queue.shift();
      if (next.frame !== null) giveBackFrame(next.frame);
      this.#window.remove(next.windowBytes);
    }
  }

  /** @returns false when the ring is full: the peer will say when it no longer is */
  #write(outgoing: Outgoing): boolean {
    while (outgoing.parts.length > 0) {
      const part = outgoing.parts[0];
      const end = Math.min(part.length, outgoing.at + PIECE_BYTES);
      outgoing.at += this.#out.put(end === part.length ? part : part.subarray(0, end), outgoing.at);
      if (outgoing.at === part.length) {
        outgoing.parts.shift();
        outgoing.at = 0;
        if (outgoing.parts.length > 0) continue;
      }
      if (this.#out.publish()) this.#control.nudge();
      if (outgoing.parts.length > 0 && outgoing.at < end && this.#out.wait()) return false;
    }
    return true;
  }

  /**
   * Reads what has arrived. When nothing has, it looks again after one turn of the event loop before it asks to be woken, and every turn while the loop stays
   * awake: on a busy link that saves most wake-ups.
   */
  #drain(): void {
    if (this.#draining) return;
    this.#draining = true;
    try {
      let left = TURN_BYTES_MAX;
      while (this.#state !== 'closed' && !this.#paused) {
        if (this.#in.isEmpty) {
          if (!this.#lingered || isLingering()) {
            this.#lingered = true;
            this.#later();
            return;
          }
          if (this.#in.sleep()) return;
          continue;
        }
        this.#lingered = false;
        const piece = this.#in.peek(PIECE_BYTES);
        const { length } = piece;
        this.#reader.push(piece);
        if (this.#isClosed()) return;
        if (this.#in.consume(length)) this.#control.nudge();
        left -= length;
        if (left <= 0) {
          this.#later();
          return;
        }
      }
    } finally {
      this.#draining = false;
    }
  }

  #later(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.#guarded(() => this.#drain());
    });
  }

  #received(frame: Uint8Array): void {
    if (this.#state !== 'open') return;
    this.bytes.received += frame.length + PREFIX_BYTES;
    frameArrived(frame.length);
    if (!this.#inbox.deliver(frame, () => this.#resume())) this.#paused = true;
  }

  #resume(): void {
    this.#paused = false;
    this.#later();
  }

  #farewell(): void {
    this.#ended(null);
    void this.#control.close();
  }

  /** What the peer wrote may be anything: a failure of the stream closes the link and touches nothing else. */
  #guarded(work: () => void): void {
    if (this.#state === 'closed') return;
    try {
      work();
    } catch (error) {
      if (!(error instanceof SwitchyardError)) throw error; // a receiver's own failure
      this.#fail(error);
    }
  }

  /** A receiver may have closed the link. */
  #isClosed(): boolean {
    return this.#state === 'closed';
  }

  #fail(reason: SwitchyardError): void {
    this.#ended(reason);
    void this.#control.close(reason);
  }

  #ended(error: SwitchyardError | null): void {
    if (this.#state === 'closed') return;
    this.#state = 'closed';
    if (error !== null) this.#inbox.stop();
    clearTimeout(this.#timer);
    this.#queue.length = 0;
    this.#window.close();
    this.#region.release();
    this.#settle(error);
  }
}
