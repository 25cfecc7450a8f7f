/**
 * Takes frames out of a byte stream. On the wire a frame is u32 length, u32 length XOR LENGTH_CHECK (little endian), then its bytes; a length of GOODBYE ends the
 * stream in order. The second word makes any desynchronised or foreign stream fail at its first prefix instead of as a giant frame.
 *
 * The reader says where the next bytes belong, so that most bytes of a large frame are received straight into the frame's own memory.
 */
import { SwitchyardError } from './errors.ts';
import { badFrameLength } from './frame-length.ts';
import { frameMemory } from './frame-memory.ts';

export const PREFIX_BYTES = 8;
export const LENGTH_CHECK = 0x4b4c5953; // "SYLK"
export const GOODBYE = 0xffffffff;

/** Two reads of a large frame's worth of socket buffer; larger frames bypass it after their first bytes. */
const SCRATCH_BYTES = 256 * 1024;

export interface FrameReceiver {
  frame(frame: Uint8Array): void;
  goodbye(): void;
}

export class FrameReader {
  /** Frames longer than this are refused; may change between two frames. */
  frameBytesMax: number;
  readonly #receiver: FrameReceiver;
  #allocated: Buffer | null = null;
  readonly #prefix = Buffer.alloc(PREFIX_BYTES);
  #prefixBytes = 0; // of the prefix being read
  #frame: Uint8Array | null = null; // being filled
  #filled = 0;
  #lastLength = 0;
  #ended = false;

  constructor(frameBytesMax: number, receiver: FrameReceiver) {
    this.frameBytesMax = frameBytesMax;
    this.#receiver = receiver;
  }

  /** True between frames: the only place where a stream may end. */
  get atBoundary(): boolean {
    return this.#frame === null && this.#prefixBytes === 0;
  }

  /** Only for streams that receive in place. */
  get #scratch(): Buffer {
    this.#allocated ??= Buffer.allocUnsafeSlow(SCRATCH_BYTES);
    return this.#allocated;
  }

  /** Where to receive into next. Then call `received`. */
  target(): Uint8Array {
    if (this.#frame !== null) return this.#frame.subarray(this.#filled);
    // After a large frame another is likely: reading only its prefix lets all of it go straight into its own memory.
    if (this.#lastLength >= SCRATCH_BYTES) return this.#scratch.subarray(0, PREFIX_BYTES - this.#prefixBytes);
    return this.#scratch;
  }

  /** `bytes` bytes are in the last `target()`. @throws SwitchyardError `bad_frame` for a prefix that is none, or too long a frame */
  received(bytes: number): void {
    if (this.#frame === null) this.push(this.#scratch.subarray(0, bytes));
    else {
      this.#filled += bytes;
      this.#finishFrame();
    }
  }

  /** Bytes that were received elsewhere. */
  push(chunk: Uint8Array): void {
    let at = 0;
    while (at < chunk.length && !this.#ended) {
      if (this.#frame === null) {
        const taken = Math.min(PREFIX_BYTES - this.#prefixBytes, chunk.length - at);
        this.#prefix.set(chunk.subarray(at, at + taken), this.#prefixBytes);
        this.#prefixBytes += taken;
        at += taken;
        if (this.#prefixBytes === PREFIX_BYTES) this.#beginFrame();
      } else {
        const taken = Math.min(this.#frame.length - this.#filled, chunk.length - at);
        this.#frame.set(chunk.subarray(at, at + taken), this.#filled);
        this.#filled += taken;
        at += taken;
        this.#finishFrame();
      }
    }
  }

  #beginFrame(): void {
    this.#prefixBytes = 0;
    const length = this.#prefix.readUInt32LE(0);
    const check = this.#prefix.readUInt32LE(4);
    if ((length ^ LENGTH_CHECK) >>> 0 !== check)
      throw new SwitchyardError('bad_frame', `the stream is not framed: length ${length} with check word 0x${check.toString(16)}`, {
        param: 'frame.length',
      });
    if (length === GOODBYE) {
      this.#ended = true;
      this.#receiver.goodbye();
      return;
    }
    if (length < 1 || length > this.frameBytesMax) throw badFrameLength(length, this.frameBytesMax);
    this.#lastLength = length;
    this.#filled = 0;
    this.#frame = frameMemory(length);
  }

  #finishFrame(): void {
    const frame = this.#frame!;
    if (this.#filled < frame.length) return;
    this.#frame = null;
    this.#receiver.frame(frame);
  }
}

export function writePrefix(length: number): Buffer {
  const prefix = Buffer.allocUnsafe(PREFIX_BYTES);
  prefix.writeUInt32LE(length, 0);
  prefix.writeUInt32LE((length ^ LENGTH_CHECK) >>> 0, 4);
  return prefix;
}
