import { closeSync, ftruncate, openSync, type PathLike, write } from 'node:fs';
import { promisify } from 'node:util';

const writeBytes = promisify(write);
const truncate = promisify(ftruncate);

/**
 * A new file, readable by its owner alone, that only grows, by whole pieces: also a disk that is full in the middle of one leaves none cut. Pieces are written in
 * order while the caller goes on.
 */
export class AppendedFile {
  readonly path: string;
  /** Of the pieces that are in the file. */
  writtenBytes = 0;
  /** Of those on their way. */
  pendingBytes = 0;
  readonly #descriptor: number;
  readonly #onFailure: (error: Error) => void;
  readonly #pieces: Uint8Array[] = [];
  #writing: Promise<void> | null = null;
  #failed = false;

  /** @throws where there can be no such file, or is one */
  constructor(path: string, onFailure: (error: Error) => void) {
    this.path = path;
    this.#onFailure = onFailure;
    this.#descriptor = openSync(path as PathLike, 'wx', 0o600);
  }

  /** After a failure: nothing. */
  append(piece: Uint8Array): void {
    if (this.#failed) return;
    this.#pieces.push(piece);
    this.pendingBytes += piece.length;
    this.#writing ??= this.#write();
  }

  /** Once everything is in the file, or never will be. */
  async close(): Promise<void> {
    await this.#writing;
    closeSync(this.#descriptor);
  }

  async #write(): Promise<void> {
    while (this.#pieces.length > 0) {
      // What came while the last ones were written goes together.
      const pieces = this.#pieces.splice(0);
      const error = await this.#writeAll(pieces);
      if (error === null) continue;
      this.#failed = true;
      this.#pieces.length = 0;
      this.pendingBytes = 0;
      this.#onFailure(error);
    }
    this.#writing = null;
  }

  async #writeAll(pieces: readonly Uint8Array[]): Promise<Error | null> {
    const bytes = pieces.length === 1 ? pieces[0] : Buffer.concat(pieces);
    let done = 0;
    try {
      while (done < bytes.length) done += (await writeBytes(this.#descriptor, bytes, done)).bytesWritten;
      this.#wrote(bytes.length);
      return null;
    } catch (error) {
      for (const { length } of pieces) {
        if (length > done) break;
        done -= length;
        this.#wrote(length);
      }
      await truncate(this.#descriptor, this.writtenBytes).catch(() => {});
      return error as Error;
    }
  }

  #wrote(bytes: number): void {
    this.writtenBytes += bytes;
    this.pendingBytes -= bytes;
  }
}
