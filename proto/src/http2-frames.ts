/** Frames of HTTP/2 as RFC 9113 §4.1 and §6 have them: few are written here, and what arrives is taken apart in whatever pieces it comes. */
import { SwitchyardError } from './errors.ts';
import { limits } from './limits.ts';

export const frameTypes = { data: 0, headers: 1, settings: 4, windowUpdate: 8 } as const;
export const frameFlags = { endStream: 1, acknowledgement: 1, padded: 8 } as const;
export const HEADER_BYTES = 9;
/** The highest stream, and the largest window: what the reserved bit leaves. */
export const WORD_MAX = 2 ** 31 - 1;
/** What a frame may have until a peer says otherwise, and the least that it may say. */
export const INITIAL_FRAME_BYTES_MAX = 16_384;
/** The most: what the length in a frame's header can say. */
export const FRAME_BYTES_MAX = 2 ** 24 - 1;
/** SETTINGS of a peer that means well have a dozen entries of 6 bytes. */
const SETTINGS_BYTES_MAX = 1024;
/** Read at once where small frames follow each other; larger ones are received into the message's own memory. */
const SCRATCH_BYTES = 256 * 1024;
/** Below that, one read of whatever there is costs less than one of exactly what is missing. */
const IN_PLACE_BYTES_MIN = 64 * 1024;

/** Takes the payload of DATA frames. */
export interface DataReceiver {
  /** Memory for what comes next; may be empty. */
  target(): Uint8Array;
  /** So much of the target was filled. */
  received(bytes: number): void;
  /** Or: payload that lies elsewhere, to be copied. */
  push(piece: Uint8Array): void;
}

/** Who is told what the frames are. Each may throw: the connection is then of no more use. */
export interface FrameOwner {
  /** A DATA frame of so many bytes begins, padding and its length included. Null: its payload is dropped. */
  dataBegins(stream: number, bytes: number): DataReceiver | null;
  /** A DATA frame was the last of its stream. */
  dataEnds(stream: number): void;
  /** A HEADERS frame begins; it passes like any other frame. */
  headersBegin(stream: number, endStream: boolean): void;
  /** A whole SETTINGS or WINDOW_UPDATE. */
  inspect(frame: { type: number; flag: number; stream: number; payload: Buffer; bytes: Buffer }): void;
  /** Bytes of all other frames, in order. */
  pass(bytes: Buffer): void;
}

export class FrameReader {
  readonly #owner: FrameOwner;
  readonly #header = Buffer.alloc(HEADER_BYTES + 1); // and a padded frame's length of padding
  #headerBytes = 0;
  #state: 'header' | 'data' | 'padding' | 'inspected' | 'passed';
  #leftBytes: number;
  #paddingBytes = 0;
  #receiver: DataReceiver | null = null;
  #inspected = Buffer.alloc(0); // header and payload
  #lastDataBytes = 0;
  #inPlace = false; // the last target
  #scratch: Buffer | null = null;

  /** @param prefaceBytes that stand before the first frame, and pass */
  constructor(owner: FrameOwner, prefaceBytes: number) {
    this.#owner = owner;
    this.#state = prefaceBytes > 0 ? 'passed' : 'header';
    this.#leftBytes = prefaceBytes;
  }

  /**
   * Where the socket should receive into.
   * @param prefixBytes of the next payload that would be followed by a message's own memory
   */
  target(prefixBytes: number): Uint8Array {
    this.#scratch ??= Buffer.allocUnsafeSlow(SCRATCH_BYTES);
    const place = this.#placeOfData();
    this.#inPlace = place !== null;
    if (place !== null) return place;
    // After a large frame another is likely: reading only what stands before it lets all of it go straight into its own memory.
    const ahead = (this.#state === 'header' ? HEADER_BYTES - this.#headerBytes : 0) + prefixBytes;
    if (this.#lastDataBytes >= SCRATCH_BYTES && ahead > 0) return this.#scratch.subarray(0, ahead);
    return this.#scratch;
  }

  /** So many bytes lie in the last target. @throws SwitchyardError `bad_frame` where they are no HTTP/2 */
  received(bytes: number): void {
    if (!this.#inPlace) {
      this.push(this.#scratch!.subarray(0, bytes));
      return;
    }
    this.#leftBytes -= bytes;
    this.#receiver!.received(bytes);
    if (this.#leftBytes === 0) this.#finish();
  }

  /** @throws SwitchyardError `bad_frame` where the bytes are no HTTP/2 */
  push(chunk: Uint8Array): void {
    for (let at = 0; at < chunk.length; ) {
      if (this.#state === 'header') {
        this.#header[this.#headerBytes++] = chunk[at++];
        this.#begin();
        continue;
      }
      const piece = chunk.subarray(at, at + this.#leftBytes);
      at += piece.length;
      this.#leftBytes -= piece.length;
      if (this.#state === 'data') this.#receiver?.push(piece);
      else if (this.#state === 'passed') this.#owner.pass(Buffer.from(piece));
      else if (this.#state === 'inspected') this.#inspected.set(piece, this.#inspected.length - this.#leftBytes - piece.length);
      if (this.#leftBytes === 0) this.#finish();
    }
  }

  /** Memory of the message under way, where enough of it is missing. */
  #placeOfData(): Uint8Array | null {
    if (this.#state !== 'data' || this.#receiver === null || this.#leftBytes < IN_PLACE_BYTES_MIN) return null;
    const place = this.#receiver.target();
    if (place.length < IN_PLACE_BYTES_MIN) return null;
    return place.length > this.#leftBytes ? place.subarray(0, this.#leftBytes) : place;
  }

  /** Looks at the header so far; goes on to the payload once it is whole. */
  #begin(): void {
    if (this.#headerBytes < HEADER_BYTES) return;
    const { type, flag, stream } = this.#head();
    const padded = type === frameTypes.data && (flag & frameFlags.padded) !== 0;
    if (padded && this.#headerBytes === HEADER_BYTES) return;
    const bytes = this.#header.readUIntBE(0, 3);
    this.#headerBytes = 0;
    if (bytes > (type === frameTypes.data ? limits.grpcWindowBytes : INITIAL_FRAME_BYTES_MAX))
      throw badFrame(`an HTTP/2 frame of type ${type} has ${bytes} bytes`);
    this.#leftBytes = bytes;
    if (type === frameTypes.data) this.#beginData(stream, bytes, padded);
    else if (type === frameTypes.settings || type === frameTypes.windowUpdate) {
      if (bytes > SETTINGS_BYTES_MAX) throw badFrame(`SETTINGS or WINDOW_UPDATE have ${bytes} bytes`);
      this.#inspected = Buffer.alloc(HEADER_BYTES + bytes);
      this.#header.copy(this.#inspected, 0, 0, HEADER_BYTES);
      this.#state = 'inspected';
    } else {
      if (type === frameTypes.headers) this.#owner.headersBegin(stream, (flag & frameFlags.endStream) !== 0);
      this.#owner.pass(Buffer.from(this.#header.subarray(0, HEADER_BYTES)));
      this.#state = 'passed';
    }
    if (this.#leftBytes === 0) this.#finish();
  }

  #beginData(stream: number, bytes: number, padded: boolean): void {
    this.#paddingBytes = padded ? this.#header[HEADER_BYTES] : 0;
    const overhead = padded ? 1 + this.#paddingBytes : 0;
    if (overhead > bytes) throw badFrame('a DATA frame is all padding, and more');
    this.#leftBytes = bytes - overhead;
    this.#lastDataBytes = bytes;
    this.#state = 'data';
    this.#receiver = this.#owner.dataBegins(stream, bytes);
  }

  /** The last byte of a frame was read. */
  #finish(): void {
    const state = this.#state;
    const { type, flag, stream } = this.#head();
    if (state === 'data' && this.#paddingBytes > 0) {
      this.#leftBytes = this.#paddingBytes;
      this.#paddingBytes = 0;
      this.#state = 'padding';
      return;
    }
    this.#state = 'header';
    if (state === 'inspected') {
      const bytes = this.#inspected;
      this.#owner.inspect({ type, flag, stream, payload: bytes.subarray(HEADER_BYTES), bytes });
    } else if (state !== 'passed' && (flag & frameFlags.endStream) !== 0) this.#owner.dataEnds(stream);
  }

  #head(): { type: number; flag: number; stream: number } {
    return { type: this.#header[3], flag: this.#header[4], stream: this.#header.readUInt32BE(5) & WORD_MAX };
  }
}

export function writeHeader(into: Buffer, bytes: number, type: number, flag: number, stream: number): void {
  into.writeUIntBE(bytes, 0, 3);
  into[3] = type;
  into[4] = flag;
  into.writeUInt32BE(stream, 5);
}

/** DATA without payload that ends its stream. */
export function endOfData(stream: number): Buffer {
  const frame = Buffer.alloc(HEADER_BYTES);
  writeHeader(frame, 0, frameTypes.data, frameFlags.endStream, stream);
  return frame;
}

export function windowUpdate(stream: number, bytes: number): Buffer {
  const frame = Buffer.alloc(HEADER_BYTES + 4);
  writeHeader(frame, 4, frameTypes.windowUpdate, 0, stream);
  frame.writeUInt32BE(bytes, HEADER_BYTES);
  return frame;
}

export function badFrame(message: string): SwitchyardError {
  return new SwitchyardError('bad_frame', message);
}
