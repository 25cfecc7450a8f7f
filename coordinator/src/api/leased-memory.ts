import { SwitchyardError } from '@switchyard/proto';

/** What one request holds of a memory that all share, until it ends. */
export interface MemoryLease {
  /** Of all leases together. */
  readonly bytesMax: number;
  /** @param bytes that it holds from now on, all together. @throws SwitchyardError `queue_full` when all leases together would take too much */
  hold(bytes: number): void;
  end(): void;
}

interface LeasedMemoryOptions {
  bytesMax: number;
  /** What every lease may have besides: small things are never refused because of large ones. */
  bytesFree?: number;
  /** Of what is refused: what it holds, and what has it do so. */
  holds: { what: string; why: string };
}

/** Bytes that requests hold, all together. Each has its own bound; thousands of them, kept for as long as a client is slow, would take all memory there is. */
export class LeasedMemory {
  readonly #options: LeasedMemoryOptions;
  #bytes = 0;

  constructor(options: LeasedMemoryOptions) {
    this.#options = options;
  }

  /** Of requests' bodies and the values of their JSON, while they are read and turned into ids. */
  static ofBodies(bytesMax: number): LeasedMemory {
    return new LeasedMemory({ bytesMax, holds: { what: 'requests', why: 'are being read' } });
  }

  /**
   * Of answers, while they are put together and until their clients have taken them, and of the ids of their prompts, until then.
   *
   * @param bytesFree what the socket of each may hold anyway
   */
  static ofAnswers(bytesMax: number, bytesFree: number): LeasedMemory {
    return new LeasedMemory({ bytesMax, bytesFree, holds: { what: "answers and prompts' ids", why: 'are in memory' } });
  }

  /** @param what it is for, where a refusal should say so */
  lease(what?: string): MemoryLease {
    const { bytesMax, bytesFree = 0, holds } = this.#options;
    let held = 0;
    let ended = false;
    return {
      bytesMax,
      hold: (bytes) => {
        if (ended) return; // The client has gone: what is made for it all the same is garbage at once.
        const more = Math.max(0, bytes - bytesFree) - held;
        if (more > 0 && this.#bytes + more > bytesMax)
          throw new SwitchyardError(
            'queue_full',
            `${what === undefined ? '' : `${what} take ${bytes} bytes: `}${holds.what} of ${this.#bytes} bytes ${holds.why}; the limit of all together is ${bytesMax}`,
          );
        held += more;
        this.#bytes += more;
      },
      end: () => {
        ended = true;
        this.#bytes -= held;
        held = 0;
      },
    };
  }
}
