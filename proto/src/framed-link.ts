import { writeSync } from 'node:fs';
import type { Duplex } from 'node:stream';
import { SwitchyardError } from './errors.ts';
import { FrameInbox } from './frame-inbox.ts';
import { checkFrameLength } from './frame-length.ts';
import { giveBackFrame } from './frame-memory.ts';
import { FrameReader, GOODBYE, PREFIX_BYTES, writePrefix } from './frame-reader.ts';
import { limits } from './limits.ts';
import { frameArrived, frameSent } from './lingering.ts';
import type { Link } from './link.ts';
import { type Handshake, refusalFrame } from './link-handshake.ts';
import { SendWindow } from './send-window.ts';
import { SocketWriter } from './socket-writer.ts';

export interface FramedLinkOptions {
  transport: string;
  peer: string;
  frameBytesMax: number;
  pendingBytesMax: number;
  handshake: Handshake;
  /** Listeners tell a dialler why it was refused. */
  refuses: boolean;
  /** After a frame the next is waited for awake (`lingering.ts`). */
  lingers: boolean;
}

/**
 * A Link over a byte stream: frames as in `frame-reader.ts`, begun by a handshake. Its owner feeds it: `target`/`received` (or `push`) for bytes, `attach` for the
 * socket, then awaits `opened`.
 */
export class FramedLink implements Link {
  readonly transport: string;
  readonly peer: string;
  readonly closed: Promise<SwitchyardError | null>;
  /** Resolves when the handshake is done; rejects with the reason otherwise. */
  readonly opened: Promise<void>;
  readonly bytes = { sent: 0, received: 0 };
  readonly #options: FramedLinkOptions;
  readonly #reader: FrameReader;
  readonly #window: SendWindow;
  readonly #inbox = new FrameInbox(limits.linkEarlyBytesMax);
  #socket!: Duplex;
  #writer!: SocketWriter;
  #settle!: (error: SwitchyardError | null) => void;
  #open!: () => void;
  #refuse!: (error: SwitchyardError) => void;
  #state: 'handshake' | 'open' | 'closing' | 'closed' = 'handshake';
  #timer: NodeJS.Timeout | undefined;
  #paused = false;

  constructor(options: FramedLinkOptions) {
    this.transport = options.transport;
    this.peer = options.peer;
    this.#options = options;
    this.#window = new SendWindow(options.pendingBytesMax);
    this.#reader = new FrameReader(limits.handshakeBytesMax, {
      frame: (frame) => this.#received(frame),
      goodbye: () => this.#farewell(),
    });
    this.closed = new Promise((resolve) => {
      this.#settle = resolve;
    });
    this.opened = new Promise((resolve, reject) => {
      this.#open = resolve;
      this.#refuse = reject;
    });
    this.opened.catch(ignore); // Whoever awaits it hears of it.
  }

  /** Begins the handshake on a connected (or connecting) socket, or what behaves like one. */
  attach(socket: Duplex): void {
    this.#socket = socket;
    this.#writer = new SocketWriter(socket);
    let cause: Error | undefined;
    socket.on('error', (error) => {
      cause = error;
      socket.destroy(); // A TLS socket that was sent nonsense says so and would stay open.
    });
    socket.on('end', () => {
      // A process that is killed also ends its streams: only a goodbye makes an end orderly.
      if (this.#state === 'handshake' || this.#state === 'open') this.#fail(this.#broken(cause));
    });
    socket.on('close', () => {
      const orderly = this.#state === 'closing' && socket.writableFinished; // All that was sent is written.
      this.#ended(orderly ? null : this.#broken(cause));
    });
    this.#timer = setTimeout(
      () => this.#fail(new SwitchyardError('link_closed', `${this.peer} did not finish the handshake within ${limits.dialTimeoutMs} ms`)),
      limits.dialTimeoutMs,
    );
    this.#negotiate(null);
  }

  get pendingBytes(): number {
    return this.#window.pendingBytes;
  }

  send(frame: Uint8Array): boolean {
    if (this.#state !== 'open') throw new SwitchyardError('link_closed', `the link to ${this.peer} is closed`);
    checkFrameLength(frame.length, this.#options.frameBytesMax);
    const bytes = frame.length + PREFIX_BYTES;
    this.bytes.sent += bytes;
    if (this.#options.lingers) frameSent(bytes);
    const written = this.#writer.write(writePrefix(frame.length), frame, () => {
      giveBackFrame(frame);
      if (this.#state !== 'closed') this.#window.remove(bytes - written);
    });
    if (written === bytes) {
      giveBackFrame(frame);
      return true;
    }
    const room = this.#window.add(bytes - written);
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

  /**
   * Sends one byte as a frame, at once and for one system call: a wake-up. Where the peer has so many unread that the socket is full, this one is left out.
   * For links that send nothing else: it goes past what the stream has queued.
   */
  nudge(): void {
    if (this.#state !== 'open') return;
    const { descriptor } = this.#writer;
    if (descriptor < 0) {
      this.#writeFrame(NUDGE.subarray(PREFIX_BYTES));
      return;
    }
    try {
      if (writeSync(descriptor, NUDGE) !== NUDGE.length) this.#fail(this.#broken(undefined));
    } catch {
      // Full: it reads the earlier ones. Gone: its socket's end says so.
    }
  }

  async close(reason?: SwitchyardError): Promise<void> {
    this.#inbox.stop();
    if (this.#state === 'closed') return;
    if (reason !== undefined || this.#state === 'handshake') {
      this.#fail(reason ?? new SwitchyardError('link_closed', `the link to ${this.peer} was closed before it opened`));
      return;
    }
    if (this.#state === 'open') {
      this.#state = 'closing';
      this.#socket.end(writePrefix(GOODBYE));
      this.#resume();
      this.#timer = setTimeout(
        () => this.#fail(new SwitchyardError('link_closed', `${this.peer} did not close within ${limits.closeTimeoutMs} ms`)),
        limits.closeTimeoutMs,
      );
    }
    await this.closed;
  }

  /** Where the socket should receive into. */
  target(): Uint8Array {
    return this.#reader.target();
  }

  /** @returns false to stop reading until the socket is resumed. */
  received(bytes: number): boolean {
    return this.#read(() => this.#reader.received(bytes));
  }

  push(chunk: Uint8Array): boolean {
    return this.#read(() => this.#reader.push(chunk));
  }

  #read(take: () => void): boolean {
    try {
      take();
    } catch (error) {
      if (!(error instanceof SwitchyardError)) throw error; // a receiver's own failure, not the stream's
      this.#fail(error);
    }
    return !this.#paused;
  }

  #received(frame: Uint8Array): void {
    if (this.#state === 'handshake') {
      this.#negotiate(frame);
      return;
    }
    if (this.#state !== 'open') return;
    this.bytes.received += frame.length + PREFIX_BYTES;
    if (this.#options.lingers) frameArrived(frame.length);
    if (!this.#inbox.deliver(frame, () => this.#resume())) this.#paused = true;
  }

  #resume(): void {
    this.#paused = false;
    this.#socket.resume();
  }

  /** Gives the handshake the frame it waits for (null: none yet) and sends what it says. */
  #negotiate(frame: Uint8Array | null): void {
    try {
      const said = frame === null ? this.#options.handshake.next() : this.#options.handshake.next(frame);
      if (said.value !== null) this.#writeFrame(said.value);
      if (!said.done) return;
      clearTimeout(this.#timer);
      this.#state = 'open';
      this.#reader.frameBytesMax = this.#options.frameBytesMax;
      this.#open();
    } catch (error) {
      const reason = error as SwitchyardError;
      if (this.#options.refuses) {
        this.#ended(reason);
        this.#socket.cork();
        this.#writeFrame(refusalFrame(reason));
        this.#socket.end(() => this.#socket.destroy());
      } else this.#fail(reason);
    }
  }

  #writeFrame(frame: Uint8Array): void {
    this.#writer.write(writePrefix(frame.length), frame, ignore);
  }

  #farewell(): void {
    if (this.#state === 'handshake') {
      this.#fail(this.#broken(undefined));
      return;
    }
    // The peer closes next; until then its end of stream has to be read.
    const timer = setTimeout(() => this.#socket.destroy(), limits.closeTimeoutMs);
    this.#socket.once('close', () => clearTimeout(timer));
    this.#socket.end();
    this.#ended(null);
  }

  #fail(reason: SwitchyardError): void {
    this.#ended(reason);
    this.#socket.destroy();
  }

  #broken(cause: Error | undefined): SwitchyardError {
    if (cause instanceof SwitchyardError) return cause;
    const where = this.#reader.atBoundary ? 'without a goodbye' : 'inside a frame';
    const message = `${this.peer} went away ${where}${cause === undefined ? '' : `: ${cause.message}`}`;
    return new SwitchyardError('link_closed', message, { cause });
  }

  #ended(error: SwitchyardError | null): void {
    if (this.#state === 'closed') return;
    this.#state = 'closed';
    if (error !== null) this.#inbox.stop();
    clearTimeout(this.#timer);
    this.#window.close();
    this.#refuse(error ?? this.#broken(undefined)); // of no effect once opened
    this.#settle(error);
  }
}

const NUDGE = Buffer.concat([writePrefix(1), Uint8Array.of(0)]);

function ignore(): void {}
