/**
 * A fast lane for the one stream of an HTTP/2 connection. Node's HTTP/2 moves DATA in frames of 16 KiB, each an event, a slice and a copy at the receiver, and does
 * not read while a write of its own waits. Here its session keeps what is little and intricate (SETTINGS, HEADERS and their compression, PING, RST_STREAM, GOAWAY)
 * while DATA and the credit for it (WINDOW_UPDATE) go past it, between the socket and the stream's owner: frames as large as the peer takes, received in place.
 * The peer sees HTTP/2 as RFC 9113 has it; the session sees a stream on which nothing but its end ever arrives.
 */
import { Duplex } from 'node:stream';
import { SwitchyardError } from './errors.ts';
import {
  badFrame,
  type DataReceiver,
  endOfData,
  FRAME_BYTES_MAX,
  type FrameOwner,
  FrameReader,
  frameFlags,
  frameTypes,
  HEADER_BYTES,
  INITIAL_FRAME_BYTES_MAX,
  WORD_MAX,
  windowUpdate,
  writeHeader,
} from './http2-frames.ts';
import { limits } from './limits.ts';
import type { SocketReceiver } from './socket-transport.ts';
import { SocketWriter } from './socket-writer.ts';

/** What the lane carries DATA for. */
export interface LaneStream extends DataReceiver {
  /** A DATA frame begins; padding counts as it does for flow control. @throws SwitchyardError `bad_frame` where it overruns the window */
  begins(bytes: number): void;
  /** As in `MessageReader`. */
  prefixBytesLeft: number;
  /** The peer takes so many bytes more of this stream (less, where it changes its settings). */
  credited(bytes: number): void;
  /** The peer takes more of the connection. */
  pump(): void;
  /** Set once the peer has ended the stream: the session's stream also ends when the connection is lost. */
  peerFinished: boolean;
}

/** "PRI * HTTP/2.0…", with which a client begins. */
const PREFACE_BYTES = 24;
const settings = { initialWindow: 4, frameBytesMax: 5 } as const;
/** What holds until a peer says otherwise. */
export const INITIAL_WINDOW_BYTES = 65_535;
/** Frames for the session that it has not read: it stops where a peer does not take its answers. */
const UNREAD_BYTES_MAX = 1024 * 1024;

export class Http2Lane implements SocketReceiver {
  /** What Node's HTTP/2 takes for its socket. */
  readonly session: Duplex;
  /** A peer opens a stream, and no other is open: whoever takes it. Never called at a client. */
  onHeaders: (id: number) => LaneStream | null = () => null;
  /** Something has arrived since this was last set to false. */
  heard = false;
  /** Why the connection broke, where that is known. */
  cause: Error | undefined;
  #socket!: Duplex;
  #writer!: SocketWriter;
  #nextWrite: (() => void) | null = null;
  #stream: LaneStream | null = null;
  #id = 0; // of #stream, or the last one
  #granted = false;
  #owedBytes = 0; // received and not yet credited
  #roomBytes = INITIAL_WINDOW_BYTES; // the peer takes of the connection
  #peerFrameBytesMax = INITIAL_FRAME_BYTES_MAX;
  #peerInitialWindow = INITIAL_WINDOW_BYTES;
  readonly #frames: FrameReader;

  constructor(role: 'client' | 'server') {
    this.#frames = new FrameReader(this.#owner(), role === 'server' ? PREFACE_BYTES : 0);
    this.session = new Duplex({
      read: () => {},
      write: (chunk: Buffer, _encoding, done) => this.#sendForSession([chunk], done),
      writev: (chunks, done) =>
        this.#sendForSession(
          chunks.map((c) => c.chunk as Buffer),
          done,
        ),
      final: (done) => {
        this.#socket.end(done);
      },
      destroy: (error, done) => {
        this.#socket.destroy();
        done(error);
      },
    });
    this.session.on('error', (error) => {
      this.cause ??= error;
    });
  }

  attach(socket: Duplex): void {
    this.#socket = socket;
    this.#writer = new SocketWriter(socket);
    socket.on('error', (error) => {
      this.cause ??= error;
      socket.destroy(); // A TLS socket that was sent nonsense says so and would stay open.
    });
    socket.on('end', () => this.session.push(null));
    socket.on('close', () => this.session.destroy());
  }

  /** Cuts the connection. */
  destroy(reason?: Error): void {
    this.cause ??= reason;
    this.session.destroy();
  }

  /** From now on DATA of stream `id` is for `stream`. */
  open(id: number, stream: LaneStream): void {
    this.#id = id;
    this.#stream = stream;
    stream.credited(this.#peerInitialWindow);
  }

  /** The stream is over: what still arrives on it is dropped, and a peer may open another. */
  release(id: number): void {
    if (id === this.#id) this.#stream = null;
  }

  /** Calls back once the session has written what it has to write now. */
  afterNextWrite(then: () => void): void {
    this.#nextWrite = then;
  }

  /** Lets the peer send so many bytes more on the stream. The first time, the connection takes as many. */
  grant(bytes: number): void {
    const updates = [windowUpdate(this.#id, bytes)];
    if (!this.#granted) updates.push(windowUpdate(0, limits.grpcWindowBytes - INITIAL_WINDOW_BYTES));
    this.#granted = true;
    this.#writer.write(EMPTY, Buffer.concat(updates), ignore);
  }

  /** Bytes of the next DATA frame that the peer would take of any stream. */
  get roomBytes(): number {
    return Math.min(this.#roomBytes, this.#peerFrameBytesMax);
  }

  /** Writes one DATA frame, of at most `roomBytes` bytes. `done` is called when it is written. */
  sendData(prefix: Uint8Array, body: Uint8Array, done: () => void): void {
    const bytes = prefix.length + body.length;
    this.#roomBytes -= bytes;
    const head = Buffer.allocUnsafe(HEADER_BYTES + prefix.length);
    writeHeader(head, bytes, frameTypes.data, 0, this.#id);
    head.set(prefix, HEADER_BYTES);
    if (this.#writer.write(head, body, done) === head.length + body.length) done();
  }

  target(): Uint8Array {
    return this.#frames.target(this.#stream?.prefixBytesLeft ?? 0);
  }

  received(bytes: number): boolean {
    return this.#read(() => this.#frames.received(bytes));
  }

  push(chunk: Uint8Array): boolean {
    return this.#read(() => this.#frames.push(chunk));
  }

  #read(take: () => void): boolean {
    this.heard = true;
    try {
      take();
    } catch (error) {
      if (!(error instanceof SwitchyardError)) throw error; // a receiver's own failure, not the connection's
      this.destroy(error);
    }
    return true; // What a slow reader takes is for the stream's window to say: the session's frames must get through.
  }

  #owner(): FrameOwner {
    return {
      dataBegins: (id, bytes) => this.#dataBegins(id, bytes),
      dataEnds: (id) => {
        this.#peerFinished(id);
        this.#pass(endOfData(id));
      },
      headersBegin: (id, endStream) => {
        if (id > this.#id && this.#stream === null) {
          const stream = this.onHeaders(id);
          if (stream !== null) this.open(id, stream);
        }
        if (endStream) this.#peerFinished(id);
      },
      inspect: ({ type, flag, stream, payload, bytes }) => {
        if (type === frameTypes.windowUpdate) return this.#credited(stream, payload);
        if ((flag & frameFlags.acknowledgement) === 0) this.#settle(payload);
        this.#pass(bytes);
      },
      pass: (bytes) => this.#pass(bytes),
    };
  }

  #dataBegins(id: number, bytes: number): DataReceiver | null {
    this.#owedBytes += bytes;
    if (this.#granted && this.#owedBytes >= limits.grpcWindowBytes / 4) {
      this.#writer.write(EMPTY, windowUpdate(0, this.#owedBytes), ignore);
      this.#owedBytes = 0;
    }
    if (id !== this.#id) return null;
    this.#stream?.begins(bytes);
    return this.#stream;
  }

  #peerFinished(id: number): void {
    if (id === this.#id && this.#stream !== null) this.#stream.peerFinished = true;
  }

  #credited(id: number, payload: Buffer): void {
    const bytes = payload.length === 4 ? payload.readUInt32BE(0) & WORD_MAX : 0;
    if (bytes === 0) throw badFrame('a WINDOW_UPDATE gives nothing');
    if (id === 0) {
      this.#roomBytes += bytes;
      if (this.#roomBytes > WORD_MAX) throw badFrame('the window of a connection grew too large');
      this.#stream?.pump();
    } else if (id === this.#id) this.#stream?.credited(bytes);
  }

  /** The session sees SETTINGS too, and refuses what is not allowed; but it sees them later. */
  #settle(payload: Buffer): void {
    for (let at = 0; at + 6 <= payload.length; at += 6) {
      const value = payload.readUInt32BE(at + 2);
      if (payload.readUInt16BE(at) === settings.frameBytesMax) this.#limitFrames(value);
      if (payload.readUInt16BE(at) !== settings.initialWindow) continue;
      const more = value - this.#peerInitialWindow;
      this.#peerInitialWindow = value;
      this.#stream?.credited(more);
    }
  }

  /** No peer may have its DATA a byte at a time: that would be millions of frames for one message. */
  #limitFrames(bytesMax: number): void {
    if (bytesMax < INITIAL_FRAME_BYTES_MAX || bytesMax > FRAME_BYTES_MAX) throw badFrame(`SETTINGS ask for frames of ${bytesMax} bytes`);
    this.#peerFrameBytesMax = Math.min(bytesMax, limits.grpcWindowBytes);
  }

  #pass(bytes: Buffer): void {
    this.session.push(bytes);
    if (this.session.readableLength > UNREAD_BYTES_MAX)
      throw badFrame(`${UNREAD_BYTES_MAX} bytes of HTTP/2 frames wait for a peer that does not read`);
  }

  /** The session writes whole frames, so DATA may stand between any two of its writes. */
  #sendForSession(chunks: Buffer[], done: (error?: Error | null) => void): void {
    const last = chunks.pop()!;
    this.#socket.cork();
    for (const chunk of chunks) this.#socket.write(chunk);
    this.#socket.write(last, done);
    this.#socket.uncork();
    const then = this.#nextWrite;
    this.#nextWrite = null;
    then?.();
  }
}

const EMPTY = new Uint8Array(0);

function ignore(): void {}
