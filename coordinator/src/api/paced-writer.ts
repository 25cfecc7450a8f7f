import type { ServerResponse } from 'node:http';
import { SwitchyardError } from '@switchyard/proto';
import { bounds } from '../bounds.ts';

/** In UTF-8 a character takes three bytes at most. */
const PIECE_CHARS_MAX = bounds.socketPendingBytesMax / 3;

/**
 * Writes a response as fast as its reader takes it, in pieces: of one long write a socket tells nothing before all of it is taken, so that a slow reader could not
 * be told from one that reads nothing. The latter is cut off, also when all that it has left is the end.
 */
export class PacedWriter {
  readonly #response: ServerResponse;
  readonly #onTaken: () => void;
  readonly #stallMs: number;
  #bytes: Buffer[] = [];
  #heldBytes = 0;
  #ending = false;
  /** As much is on its way as may be; until the socket drains. */
  #full = false;
  #stalled: NodeJS.Timeout | null = null;

  /** @param onTaken called when the reader, having been behind, wants more; `busy` is false then */
  constructor(response: ServerResponse, onTaken: () => void = () => {}, stallMs: number = bounds.readerStallMs) {
    this.#response = response;
    this.#onTaken = onTaken;
    this.#stallMs = stallMs;
    response.on('drain', () => this.#drained());
    response.on('close', () => this.#disarm());
  }

  /** The reader is behind: what is more to write should wait. */
  get busy(): boolean {
    return this.#bytes.length > 0 || this.#full;
  }

  /** What it holds of all that it was given: a piece of a buffer keeps the whole. */
  get heldBytes(): number {
    return this.#bytes.length === 0 ? 0 : this.#heldBytes;
  }

  /** Only while it is not busy. */
  write(content: readonly Buffer[] | string): void {
    // Text is nearly always a piece as it is, which costs less than bytes of its own.
    if (typeof content !== 'string') this.#bytes = [...content];
    else if (content.length <= PIECE_CHARS_MAX) this.#send(content);
    else this.#bytes = [Buffer.from(content)];
    if (this.#bytes.length > 0) this.#heldBytes = this.#bytes.reduce((sum, { length }) => sum + length, 0);
    this.#pump();
  }

  /** Ends the response once everything is written. */
  end(): void {
    if (this.#ending) return;
    this.#ending = true;
    this.#pump();
  }

  #pump(): void {
    if (this.#response.destroyed) return;
    while (this.#bytes.length > 0 && !this.#full) {
      const [first] = this.#bytes;
      const piece = first.subarray(0, bounds.socketPendingBytesMax);
      if (first.length > piece.length) this.#bytes[0] = first.subarray(piece.length);
      else this.#bytes.shift();
      this.#send(piece);
    }
    if (this.#ending && this.#bytes.length === 0 && !this.#response.writableEnded) this.#response.end();
    if (this.#full || this.#response.writableEnded) this.#arm();
  }

  #send(piece: Buffer | string): void {
    if (this.#response.destroyed) return;
    this.#response.write(piece);
    // Node's count is of before where it says "drain" as a response is given its socket. Nothing is full that it does not promise to say so of again.
    this.#full = this.#response.writableLength >= bounds.socketPendingBytesMax && this.#response.writableNeedDrain;
  }

  #drained(): void {
    const wasFull = this.#full;
    this.#full = false;
    this.#disarm();
    this.#pump();
    if (wasFull && !this.busy) this.#onTaken();
  }

  #arm(): void {
    if (this.#stalled !== null) return;
    // Of pipelined requests the connection belongs to the first: nobody could have read the second's answer yet.
    if (this.#response.socket === null) {
      this.#response.once('socket', () => this.#pump());
      return;
    }
    this.#stalled = setTimeout(() => {
      this.#response.destroy(new SwitchyardError('cancelled', `the client has read nothing for ${this.#stallMs} ms`));
    }, this.#stallMs);
  }

  #disarm(): void {
    if (this.#stalled !== null) clearTimeout(this.#stalled);
    this.#stalled = null;
  }
}
