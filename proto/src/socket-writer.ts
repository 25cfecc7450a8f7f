import { writevSync } from 'node:fs';
import type { Duplex } from 'node:stream';
import { TLSSocket } from 'node:tls';

/** Larger pieces may not fit a socket's buffer; those of a decode step do. */
const AT_ONCE_BYTES_MAX = 64 * 1024;

/** Writes what a link sends to its socket, for few system calls. */
export class SocketWriter {
  readonly #socket: Duplex;
  #corked = false;

  constructor(socket: Duplex) {
    this.#socket = socket;
  }

  /** The kernel's number of a socket whose bytes are the stream's own; -1 where there is none (TLS, a stream that is no socket). */
  get descriptor(): number {
    if (this.#socket instanceof TLSSocket) return -1;
    return (this.#socket as unknown as { _handle?: { fd?: number } | null })._handle?.fd ?? -1;
  }

  /**
   * Writes a prefix and what it stands before.
   * @returns bytes written at once; unless that is all, `done` is called when the rest is written
   */
  write(prefix: Uint8Array, body: Uint8Array, done: () => void): number {
    const written = this.#writeAtOnce(prefix, body);
    if (written === prefix.length + body.length) return written;
    this.#cork();
    if (written < prefix.length) this.#socket.write(prefix.subarray(written));
    this.#socket.write(body.subarray(Math.max(0, written - prefix.length)), done);
    return written;
  }

  /**
   * Something small that nothing waits before is written at once: the stream would do it at the end of this turn, for several times the processor time.
   * @returns bytes written; the rest is the stream's
   */
  #writeAtOnce(prefix: Uint8Array, body: Uint8Array): number {
    if (body.length > AT_ONCE_BYTES_MAX || this.#socket.writableLength > 0) return 0;
    const descriptor = this.descriptor;
    if (descriptor < 0) return 0;
    try {
      return writevSync(descriptor, [prefix, body]);
    } catch {
      return 0; // Full, or gone: the stream waits for the one and tells of the other.
    }
  }

  /** Everything given to the stream in one turn of the event loop leaves in one system call. */
  #cork(): void {
    if (this.#corked) return;
    this.#corked = true;
    this.#socket.cork();
    process.nextTick(() => {
      this.#corked = false;
      this.#socket.uncork();
    });
  }
}
