/**
 * A byte stream through shared memory: one ring per direction, in a region that two processes map. Either may write anything anywhere in it at any time, so each
 * side keeps its own index privately, reads the other's once per look and checks it, and copies bytes out before it believes them.
 *
 * Layout of a region: nonce (16 bytes) at 0; control words of the two rings at 256 and 512; their data, `ringBytes` each, from 4096.
 * Control words of a ring, u32, a cache line apart so that the sides do not slow each other down:
 *
 *     0   head            bytes written so far, modulo 2^32: the writer's
 *     64  writer waits    1: the writer sleeps until half of the ring is free; whoever clears it wakes the other side
 *     128 tail            bytes read so far, modulo 2^32: the reader's
 *     192 reader sleeps   1: the reader sees nothing more until it is woken
 *
 * Flags are set before the last look at the other side's index and looked at after storing one's own (all sequentially consistent), so no wake-up is lost; and
 * between two processes that both have work there is no system call.
 */
import { SwitchyardError } from './errors.ts';

export const REGION_NONCE_BYTES = 16;
const CONTROL_OFFSETS = [256, 512] as const;
const CONTROL_WORDS = 64;
const DATA_OFFSET = 4096;
const HEAD = 0;
const WRITER_WAITS = 16;
const TAIL = 32;
const READER_SLEEPS = 48;

export function regionBytes(ringBytes: number): number {
  return DATA_OFFSET + 2 * ringBytes;
}

/** Ring 0 carries what the dialler sends, ring 1 what the listener sends. */
export type RingNumber = 0 | 1;

abstract class RingSide {
  protected readonly control: Int32Array;
  protected readonly data: Uint8Array;
  protected readonly capacity: number; // a power of two

  constructor(memory: ArrayBuffer, ring: RingNumber, ringBytes: number) {
    this.control = new Int32Array(memory, CONTROL_OFFSETS[ring], CONTROL_WORDS);
    this.data = new Uint8Array(memory, DATA_OFFSET + ring * ringBytes, ringBytes);
    this.capacity = ringBytes;
  }

  /** Bytes between two indexes. @throws SwitchyardError `bad_frame` for indexes that no ring can have */
  protected distance(head: number, tail: number): number {
    const bytes = (head - tail) >>> 0;
    if (bytes > this.capacity)
      throw new SwitchyardError('bad_frame', `shared memory: ${bytes} bytes in a ring of ${this.capacity}`, { param: 'ring.index' });
    return bytes;
  }

  /** Clears a flag of the other side. @returns whether it was set: then the other side has to be woken */
  protected takeFlag(flag: number): boolean {
    return Atomics.load(this.control, flag) !== 0 && Atomics.exchange(this.control, flag, 0) !== 0;
  }
}

export class RingWriter extends RingSide {
  #head = 0;
  #tail = 0; // as last seen

  /** Copies as much of `bytes` from `from` on as there is room for. @returns how much; the reader sees it after `publish` */
  put(bytes: Uint8Array, from: number): number {
    const wanted = bytes.length - from;
    let room = this.capacity - this.distance(this.#head, this.#tail);
    if (room < wanted) room = this.#look();
    const taken = Math.min(wanted, room);
    if (taken === 0) return 0;
    const at = this.#head & (this.capacity - 1);
    const first = Math.min(taken, this.capacity - at);
    this.data.set(first === bytes.length ? bytes : bytes.subarray(from, from + first), at);
    if (first < taken) this.data.set(bytes.subarray(from + first, from + taken), 0);
    this.#head = (this.#head + taken) | 0;
    return taken;
  }

  /** Shows the reader what was put. @returns whether the reader sleeps and has to be woken */
  publish(): boolean {
    Atomics.store(this.control, HEAD, this.#head);
    return this.takeFlag(READER_SLEEPS);
  }

  /** Asks to be woken when half of the ring is free. @returns false if it already is */
  wait(): boolean {
    Atomics.store(this.control, WRITER_WAITS, 1);
    if (this.#look() < this.capacity / 2) return true;
    Atomics.store(this.control, WRITER_WAITS, 0);
    return false;
  }

  #look(): number {
    const tail = Atomics.load(this.control, TAIL);
    const room = this.capacity - this.distance(this.#head, tail);
    this.#tail = tail;
    return room;
  }
}

export class RingReader extends RingSide {
  #tail = 0;

  /** Nothing has arrived that was not consumed. */
  get isEmpty(): boolean {
    return Atomics.load(this.control, HEAD) === this.#tail;
  }

  /** Up to `bytesMax` of the bytes that have arrived, in place: copy before believing, then `consume`. */
  peek(bytesMax: number): Uint8Array {
    const available = this.distance(Atomics.load(this.control, HEAD), this.#tail);
    const at = this.#tail & (this.capacity - 1);
    return this.data.subarray(at, at + Math.min(available, bytesMax, this.capacity - at));
  }

  /** Gives room back. @returns whether the writer waits for it and has to be woken */
  consume(bytes: number): boolean {
    this.#tail = (this.#tail + bytes) | 0;
    Atomics.store(this.control, TAIL, this.#tail);
    const left = this.distance(Atomics.load(this.control, HEAD), this.#tail);
    return left <= this.capacity / 2 && this.takeFlag(WRITER_WAITS);
  }

  /** Asks to be woken when something arrives. @returns false if something already has */
  sleep(): boolean {
    Atomics.store(this.control, READER_SLEEPS, 1);
    if (Atomics.load(this.control, HEAD) === this.#tail) return true;
    Atomics.store(this.control, READER_SLEEPS, 0);
    return false;
  }
}
