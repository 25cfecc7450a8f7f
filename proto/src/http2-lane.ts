/**
 * A fast lane for the one stream of an HTTP/2 connection. Node's HTTP/2 moves DATA in frames of 16 KiB, each an event, a slice and a copy at the receiver, and does
 * not read while a write of its own waits. Here its session keeps what is little and intricate (SETTINGS, HEADERS and their compression, PING, RST_STREAM, GOAWAY)
 * while DATA and the credit for it (WINDOW_UPDATE) go past it, between the socket and the stream's owner: frames as large as the peer takes, received in place.
 * The peer sees HTTP/2 as RFC 9113 has it; the session sees a stream on which nothing but its end ever arrives.
 */
import { Duplex } from 'node:stream';
import { SwitchyardError } from './errors.ts';
import { limits } from './limits.ts';
import type { SocketReceiver } from './socket-transport.ts';
import { SocketWriter } from './socket-writer.ts';

/** What the lane carries DATA for. */
export interface LaneStream {
  /** A DATA frame begins; padding counts as it does for flow control. @throws SwitchyardError `bad_frame` where it overruns the window */
  begins(bytes: number): void;
  /** As in `MessageReader`. */
  prefixBytesLeft: number;
  target(): Uint8Array;
  received(bytes: number): void;
  push(piece: Uint8Array): void;
  /** The peer takes so many bytes more of this stream (less, where it changes its settings). */
  credited(bytes: number): void;
  /** The peer takes more of the connection. */
  pump(): void;
  /** Set once the peer has ended the stream: the session's stream also ends when the connection is lost. */
  peerFinished: boolean;
}

const HEADER_BYTES = 9;
/** "PRI * HTTP/2.0…", with which a client begins. */
const PREFACE_BYTES = 24;
const types = { data: 0, headers: 1, settings: 4, windowUpdate: 8 } as const;
const flags = { endStream: 1, acknowledgement: 1, padded: 8 } as const;
const settings = { initialWindow: 4, frameBytesMax: 5 } as const;
/** What holds until a peer says otherwise. */
export const INITIAL_WINDOW_BYTES = 65_535;
const INITIAL_FRAME_BYTES_MAX = 16_384;
const WINDOW_BYTES_MAX = 2 ** 31 - 1;
/** SETTINGS of a peer that means well have a dozen entries of 6 bytes. */
const SETTINGS_BYTES_MAX = 1024;
/** Read at once where small frames follow each other; larger ones are received into the message's own memory. */
const SCRATCH_BYTES = 256 * 1024;
/** Below that, one read of whatever there is costs less than one of exactly what is missing. */
const IN_PLACE_BYTES_MIN = 64 * 1024;
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
  // Of the frame being read:
  readonly #header = Buffer.alloc(HEADER_BYTES + 1); // and a padded frame's length of padding
  #headerBytes = 0;
  #state: 'header' | 'data' | 'padding' | 'inspected' | 'passed';
  #leftBytes = 0;
  #paddingBytes = 0;
  #receiver: LaneStream | null = null;
  #inspected = Buffer.alloc(0);
  #lastDataBytes = 0;
  #inPlace = false; // the last target
  #allocated: Buffer | null = null;

  constructor(role: 'client' | 'server') {
    this.#state = role === 'server' ? 'passed' : 'header';
    if (role === 'server') this.#leftBytes = PREFACE_BYTES;
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
    writeHeader(head, bytes, types.data, 0, this.#id);
    head.set(prefix, HEADER_BYTES);
    if (this.#writer.write(head, body, done) === head.length + body.length) done();
  }

  /** Where the socket should receive into. */
  target(): Uint8Array {
    this.#allocated ??= Buffer.allocUnsafeSlow(SCRATCH_BYTES);
    const place = this.#placeOfData();
    this.#inPlace = place !== null;
    if (place !== null) return place;
    // After a large frame another is likely: reading only what stands before it lets all of it go straight into its own memory.
    const ahead = (this.#state === 'header' ? HEADER_BYTES - this.#headerBytes : 0) + (this.#stream?.prefixBytesLeft ?? 0);
    if (this.#lastDataBytes >= SCRATCH_BYTES && ahead > 0) return this.#allocated.subarray(0, ahead);
    return this.#allocated;
  }

  received(bytes: number): boolean {
    if (!this.#inPlace) return this.push(this.#allocated!.subarray(0, bytes));
    return this.#read(() => {
      this.#leftBytes -= bytes;
      this.#receiver!.received(bytes);
      if (this.#leftBytes === 0) this.#finish();
    });
  }

  push(chunk: Uint8Array): boolean {
    return this.#read(() => {
      let at = 0;
      while (at < chunk.length) {
        if (this.#state === 'header') {
          this.#header[this.#headerBytes++] = chunk[at++];
          this.#begin();
          continue;
        }
        const piece = chunk.subarray(at, at + this.#leftBytes);
        at += piece.length;
        this.#leftBytes -= piece.length;
        if (this.#state === 'data') this.#receiver?.push(piece);
        else if (this.#state === 'passed') this.#pass(Buffer.from(piece));
        else if (this.#state === 'inspected') this.#inspected.set(piece, this.#inspected.length - this.#leftBytes - piece.length);
        if (this.#leftBytes === 0) this.#finish();
      }
    });
  }

  /** Memory of the message under way, where enough of it is missing. */
  #placeOfData(): Uint8Array | null {
    if (this.#state !== 'data' || this.#receiver === null || this.#leftBytes < IN_PLACE_BYTES_MIN) return null;
    const place = this.#receiver.target();
    if (place.length < IN_PLACE_BYTES_MIN) return null;
    return place.length > this.#leftBytes ? place.subarray(0, this.#leftBytes) : place;
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

  /** Looks at the header so far; goes on to the payload once it is whole. */
  #begin(): void {
    const header = this.#header;
    const [type, flag] = [header[3], header[4]];
    const padded = type === types.data && (flag & flags.padded) !== 0;
    if (this.#headerBytes < HEADER_BYTES + (padded ? 1 : 0)) return;
    const bytes = header.readUIntBE(0, 3);
    const id = header.readUInt32BE(5) & WINDOW_BYTES_MAX;
    this.#headerBytes = 0;
    if (bytes > (type === types.data ? limits.grpcWindowBytes : INITIAL_FRAME_BYTES_MAX))
      throw bad(`an HTTP/2 frame of type ${type} has ${bytes} bytes`);
    this.#leftBytes = bytes;
    if (type === types.data) this.#beginData(bytes, id, padded);
    else if (type === types.settings || type === types.windowUpdate) {
      if (bytes > SETTINGS_BYTES_MAX) throw bad(`SETTINGS or WINDOW_UPDATE have ${bytes} bytes`);
      this.#inspected = Buffer.alloc(bytes);
      this.#state = 'inspected';
    } else {
      if (type === types.headers && id > this.#id && this.#stream === null) {
        const stream = this.onHeaders(id);
        if (stream !== null) this.open(id, stream);
      }
      if (type === types.headers && (flag & flags.endStream) !== 0) this.#peerFinished(id);
      this.#pass(Buffer.from(header.subarray(0, HEADER_BYTES)));
      this.#state = 'passed';
    }
    if (this.#leftBytes === 0) this.#finish();
  }

  #beginData(bytes: number, id: number, padded: boolean): void {
    this.#paddingBytes = padded ? this.#header[HEADER_BYTES] : 0;
    const overhead = padded ? 1 + this.#paddingBytes : 0;
    if (overhead > bytes) throw bad('a DATA frame is all padding, and more');
    this.#leftBytes = bytes - overhead;
    this.#lastDataBytes = bytes;
    this.#state = 'data';
    this.#receiver = id === this.#id ? this.#stream : null;
    this.#owedBytes += bytes;
    if (this.#granted && this.#owedBytes >= limits.grpcWindowBytes / 4) {
      this.#writer.write(EMPTY, windowUpdate(0, this.#owedBytes), ignore);
      this.#owedBytes = 0;
    }
    this.#receiver?.begins(bytes);
  }

  /** The last byte of a frame was read. */
  #finish(): void {
    const [state, header] = [this.#state, this.#header];
    if (state === 'data' && this.#paddingBytes > 0) {
      this.#leftBytes = this.#paddingBytes;
      this.#paddingBytes = 0;
      this.#state = 'padding';
      return;
    }
    this.#state = 'header';
    if (state === 'data' || state === 'padding') {
      if ((header[4] & flags.endStream) === 0) return;
      const id = header.readUInt32BE(5) & WINDOW_BYTES_MAX;
      this.#peerFinished(id);
      this.#pass(emptyFrame(flags.endStream, id));
    } else if (state === 'inspected') {
      if (header[3] === types.windowUpdate) this.#credited(header.readUInt32BE(5) & WINDOW_BYTES_MAX, this.#inspected);
      else {
        if ((header[4] & flags.acknowledgement) === 0) this.#settle(this.#inspected);
        this.#pass(Buffer.concat([header.subarray(0, HEADER_BYTES), this.#inspected]));
      }
    }
  }

  #peerFinished(id: number): void {
    if (id === this.#id && this.#stream !== null) this.#stream.peerFinished = true;
  }

  #credited(id: number, payload: Buffer): void {
    const bytes = payload.length === 4 ? payload.readUInt32BE(0) & WINDOW_BYTES_MAX : 0;
    if (bytes === 0) throw bad('a WINDOW_UPDATE gives nothing');
    if (id === 0) {
      this.#roomBytes += bytes;
      if (this.#roomBytes > WINDOW_BYTES_MAX) throw bad('the window of a connection grew too large');
      this.#stream?.pump();
    } else if (id === this.#id) this.#stream?.credited(bytes);
  }

  /** The session sees SETTINGS too, and refuses what is not allowed. */
  #settle(payload: Buffer): void {
    for (let at = 0; at + 6 <= payload.length; at += 6) {
      const value = payload.readUInt32BE(at + 2);
      if (payload.readUInt16BE(at) === settings.frameBytesMax) this.#peerFrameBytesMax = Math.min(value, limits.grpcWindowBytes);
      if (payload.readUInt16BE(at) !== settings.initialWindow) continue;
      const more = value - this.#peerInitialWindow;
      this.#peerInitialWindow = value;
      this.#stream?.credited(more);
    }
  }

  #pass(bytes: Buffer): void {
    this.session.push(bytes);
    if (this.session.readableLength > UNREAD_BYTES_MAX)
      throw bad(`${UNREAD_BYTES_MAX} bytes of HTTP/2 frames wait for a peer that does not read`);
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

function writeHeader(into: Buffer, bytes: number, type: number, flag: number, id: number): void {
  into.writeUIntBE(bytes, 0, 3);
  into[3] = type;
  into[4] = flag;
  into.writeUInt32BE(id, 5);
}

function emptyFrame(flag: number, id: number): Buffer {
  const frame = Buffer.alloc(HEADER_BYTES);
  writeHeader(frame, 0, types.data, flag, id);
  return frame;
}

function windowUpdate(id: number, bytes: number): Buffer {
  const frame = Buffer.alloc(HEADER_BYTES + 4);
  writeHeader(frame, 4, types.windowUpdate, 0, id);
  frame.writeUInt32BE(bytes, HEADER_BYTES);
  return frame;
}

function bad(message: string): SwitchyardError {
  return new SwitchyardError('bad_frame', message);
}

const EMPTY = new Uint8Array(0);

function ignore(): void {}
