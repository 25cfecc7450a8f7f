/** Takes gRPC messages out of the DATA of one stream: u8 compressed, u32 length (big endian), then the message. */
import { SwitchyardError } from './errors.ts';
import { badFrameLength } from './frame-length.ts';
import { frameMemory } from './frame-memory.ts';

export const MESSAGE_PREFIX_BYTES = 5;

export class MessageReader {
  readonly #bytesMax: number;
  readonly #receive: (message: Uint8Array) => void;
  readonly #prefix = Buffer.alloc(MESSAGE_PREFIX_BYTES);
  #prefixBytes = 0; // of the prefix being read
  #message: Uint8Array | null = null; // being filled
  #filled = 0;

  constructor(bytesMax: number, receive: (message: Uint8Array) => void) {
    this.#bytesMax = bytesMax;
    this.#receive = receive;
  }

  /** Bytes of the prefix still to come; 0 inside a message. */
  get prefixBytesLeft(): number {
    return this.#message === null ? MESSAGE_PREFIX_BYTES - this.#prefixBytes : 0;
  }

  /** Memory of the message under way that waits for bytes; empty between messages. Then call `received`. */
  target(): Uint8Array {
    return this.#message?.subarray(this.#filled) ?? EMPTY;
  }

  /** `bytes` bytes are in the last `target()`. */
  received(bytes: number): void {
    this.#filled += bytes;
    const message = this.#message!;
    if (this.#filled < message.length) return;
    this.#message = null;
    this.#receive(message);
  }

  /** Bytes that were received elsewhere. @throws SwitchyardError `bad_frame` */
  push(piece: Uint8Array): void {
    let at = 0;
    while (at < piece.length) {
      if (this.#message === null) {
        const taken = Math.min(this.prefixBytesLeft, piece.length - at);
        this.#prefix.set(piece.subarray(at, at + taken), this.#prefixBytes);
        this.#prefixBytes += taken;
        at += taken;
        if (this.prefixBytesLeft === 0) this.#begin();
      } else {
        const taken = Math.min(this.#message.length - this.#filled, piece.length - at);
        this.#message.set(piece.subarray(at, at + taken), this.#filled);
        at += taken;
        this.received(taken);
      }
    }
  }

  #begin(): void {
    this.#prefixBytes = 0;
    const length = this.#prefix.readUInt32BE(1);
    if (this.#prefix[0] !== 0) throw new SwitchyardError('bad_frame', 'a message is compressed, which was not agreed', { param: 'frame' });
    if (length < 1 || length > this.#bytesMax) throw badFrameLength(length, this.#bytesMax);
    this.#filled = 0;
    this.#message = frameMemory(length);
  }
}

export function messagePrefix(length: number): Buffer {
  const prefix = Buffer.allocUnsafe(MESSAGE_PREFIX_BYTES);
  prefix[0] = 0;
  prefix.writeUInt32BE(length, 1);
  return prefix;
}

const EMPTY = new Uint8Array(0);
