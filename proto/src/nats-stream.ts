/**
 * A byte stream between two clients of a NATS server, so that a framed link can run over it. Each direction has a subject; a message is
 *
 *     u32 sequence | u8 kind | 3 zero bytes | body
 *
 *     1 data       bytes of the stream, as many as the server's max_payload allows
 *     2 credit     u32, bytes that the sender of this message has taken so far, modulo 2^32: the other may be `natsWindowBytes` ahead of it
 *     3 heartbeat
 *     4 end        no data follows
 *     5 reset      the sender gave up
 *
 * Core NATS delivers at most once. Every message has the next number of its direction, so one that was lost or repeated ends the stream instead of changing it.
 * Every message asks for an answer on the sender's own subject: the server gives one, status 503, when nobody listens on the other end any more, which is how
 * the death of a process is noticed at once. A machine that vanished is noticed by its silence.
 */
import { Duplex } from 'node:stream';
import type { Msg, NatsConnection, Subscription } from '@nats-io/transport-node';
import { SwitchyardError } from './errors.ts';
import { limits } from './limits.ts';

export interface NatsStreamBounds {
  windowBytes: number;
  heartbeatMs: number;
  heartbeatsMissedMax: number;
}

const HEADER_BYTES = 8;
const NO_RESPONDERS = 503;
const Kind = { data: 1, credit: 2, heartbeat: 3, end: 4, reset: 5 } as const;

export class NatsStream extends Duplex {
  readonly #connection: NatsConnection;
  readonly #outSubject: string;
  readonly #inSubject: string;
  readonly #bounds: NatsStreamBounds;
  readonly #subscription: Subscription;
  #heartbeat: NodeJS.Timeout | undefined;
  // Sending
  #nextOut = 0;
  #sentBytes = 0;
  #takenBytes = 0; // by the peer, as it last said
  #outgoing: Uint8Array[] = [];
  #outgoingAt = 0; // of the first
  #written: (() => void) | null = null;
  // Receiving
  #nextIn = 0;
  #receivedBytes = 0;
  #readBytes = 0;
  #creditedBytes = 0; // of those read, as we last said
  #arrived: Uint8Array[] = [];
  #wanted = false; // by the reader
  #ended = false;
  #silentBeats = 0;

  constructor(connection: NatsConnection, outSubject: string, inSubject: string, bounds: NatsStreamBounds) {
    super({ allowHalfOpen: true });
    this.#connection = connection;
    this.#outSubject = outSubject;
    this.#inSubject = inSubject;
    this.#bounds = bounds;
    this.#subscription = connection.subscribe(inSubject, { callback: (error, message) => this.#receive(error, message) });
  }

  /** From now on the other end listens: it is told that this one lives, and has to say so itself. */
  startBeating(): void {
    if (this.destroyed) return;
    const { heartbeatMs, heartbeatsMissedMax } = this.#bounds;
    // Beats are counted, not timed: a process that was busy itself must not take its peer for dead.
    this.#heartbeat = setInterval(() => {
      if (++this.#silentBeats > heartbeatsMissedMax)
        this.destroy(closed(`nothing was heard for ${(this.#silentBeats - 1) * heartbeatMs} ms`));
      else this.#publish(Kind.heartbeat, []);
    }, heartbeatMs);
  }

  override _write(chunk: Uint8Array, _encoding: string, done: () => void): void {
    this.#begin([chunk], done);
  }

  override _writev(chunks: { chunk: Uint8Array }[], done: () => void): void {
    this.#begin(
      chunks.map((c) => c.chunk),
      done,
    );
  }

  override _final(done: () => void): void {
    this.#publish(Kind.end, []);
    done();
  }

  override _read(): void {
    this.#wanted = true;
    this.#deliver();
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    clearInterval(this.#heartbeat);
    if (!this.#connection.isClosed()) {
      if (!(this.#ended && this.writableFinished)) this.#publish(Kind.reset, []);
      this.#subscription.unsubscribe();
    }
    this.#outgoing = [];
    this.#arrived = [];
    done(error);
  }

  #begin(parts: Uint8Array[], done: () => void): void {
    this.#outgoing = parts.filter((part) => part.length > 0);
    this.#outgoingAt = 0;
    this.#written = done;
    this.#pump();
  }

  /** Sends what the peer has room for. */
  #pump(): void {
    while (this.#outgoing.length > 0 && !this.destroyed) {
      const room = this.#bounds.windowBytes - distance(this.#sentBytes, this.#takenBytes);
      const bytesMax = Math.min(room, this.#payloadBytesMax());
      if (bytesMax < 1) return;
      const parts: Uint8Array[] = [];
      let bytes = 0;
      while (this.#outgoing.length > 0 && bytes < bytesMax) {
        const part = this.#outgoing[0].subarray(this.#outgoingAt, this.#outgoingAt + bytesMax - bytes);
        parts.push(part);
        bytes += part.length;
        this.#outgoingAt += part.length;
        if (this.#outgoingAt === this.#outgoing[0].length) {
          this.#outgoing.shift();
          this.#outgoingAt = 0;
        }
      }
      this.#sentBytes += bytes;
      this.#publish(Kind.data, parts);
    }
    const written = this.#written;
    this.#written = null;
    written?.();
  }

  #payloadBytesMax(): number {
    const allowed = this.#connection.info?.max_payload ?? limits.natsMessageBytes;
    return Math.min(allowed, limits.natsMessageBytes) - HEADER_BYTES;
  }

  #publish(kind: number, parts: Uint8Array[]): void {
    if (this.#connection.isClosed()) return;
    const message = Buffer.concat([Buffer.alloc(HEADER_BYTES), ...parts]);
    message.writeUInt32LE(this.#nextOut, 0);
    message[4] = kind;
    this.#nextOut = (this.#nextOut + 1) >>> 0;
    this.#connection.publish(this.#outSubject, message, { reply: this.#inSubject });
  }

  #receive(error: Error | null, message: Msg): void {
    if (this.destroyed) return;
    if (error !== null) {
      this.destroy(closed(error.message));
      return;
    }
    if (message.headers?.code === NO_RESPONDERS) {
      this.destroy(closed('nobody listens on the other end any more'));
      return;
    }
    try {
      this.#take(Buffer.from(message.data.buffer, message.data.byteOffset, message.data.length));
    } catch (failure) {
      this.destroy(failure as Error);
      if (!(failure instanceof SwitchyardError))
        process.nextTick(() => {
          throw failure; // A receiver's own failure, which the client library must not swallow.
        });
    }
  }

  #take(message: Buffer): void {
    if (message.length < HEADER_BYTES) throw bad(`a message of ${message.length} bytes`);
    const sequence = message.readUInt32LE(0);
    if (sequence !== this.#nextIn) throw closed(`message ${sequence} came where ${this.#nextIn} was due: the broker lost or repeated one`);
    this.#nextIn = (this.#nextIn + 1) >>> 0;
    this.#silentBeats = 0;
    const body = message.subarray(HEADER_BYTES);
    switch (message[4]) {
      case Kind.data:
        if (this.#ended || body.length === 0) throw bad(`${body.length} bytes of data${this.#ended ? ' after the end' : ''}`);
        this.#receivedBytes += body.length;
        if (this.#receivedBytes - this.#creditedBytes > this.#bounds.windowBytes)
          throw bad(`${this.#receivedBytes - this.#creditedBytes} bytes unread, more than the ${this.#bounds.windowBytes} allowed`);
        this.#arrived.push(body);
        this.#deliver();
        return;
      case Kind.credit: {
        if (body.length !== 4) throw bad(`a credit of ${body.length} bytes`);
        const taken = body.readUInt32LE(0);
        if (distance(taken, this.#takenBytes) > distance(this.#sentBytes, this.#takenBytes)) throw bad('credit for more than was sent');
        this.#takenBytes = taken;
        if (this.#outgoing.length > 0) this.#pump();
        return;
      }
      case Kind.heartbeat:
        return;
      case Kind.end:
        this.#ended = true;
        this.#deliver();
        return;
      case Kind.reset:
        throw closed('the other end gave up');
      default:
        throw bad(`a message of kind ${message[4]}`);
    }
  }

  /** Hands over what has arrived as far as the reader takes it, and tells the peer when half of the window is free again. */
  #deliver(): void {
    while (this.#wanted && this.#arrived.length > 0 && !this.destroyed) {
      const chunk = this.#arrived.shift()!;
      this.#readBytes += chunk.length;
      this.#wanted = this.push(chunk);
    }
    if (this.destroyed) return;
    if (this.#readBytes - this.#creditedBytes >= this.#bounds.windowBytes / 2) {
      this.#creditedBytes = this.#readBytes;
      const taken = Buffer.alloc(4);
      taken.writeUInt32LE(this.#readBytes % 2 ** 32);
      this.#publish(Kind.credit, [taken]);
    }
    if (this.#ended && this.#arrived.length === 0 && !this.readableEnded) this.push(null);
  }
}

/** From one count of bytes, modulo 2^32, to a later one. */
function distance(later: number, earlier: number): number {
  return (later - earlier) >>> 0;
}

function bad(what: string): SwitchyardError {
  return new SwitchyardError('bad_frame', `nats: ${what}`, { param: 'nats.message' });
}

function closed(what: string): SwitchyardError {
  return new SwitchyardError('link_closed', `nats: ${what}`);
}
