import { SwitchyardError } from '@switchyard/proto';

/** What one request's body takes, until it ends. */
export interface BodyLease {
  /** @throws SwitchyardError `queue_full` when all bodies together would take too much */
  grow(bytes: number): void;
  end(): void;
}

/** Bytes of all bodies that are being read or turned into ids. One body has its own bound; thousands of them, sent slowly, would take all memory there is. */
export class BodyMemory {
  readonly #bytesMax: number;
  #bytes = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  lease(): BodyLease {
    let held = 0;
    return {
      grow: (bytes) => {
        if (this.#bytes + bytes > this.#bytesMax)
          throw new SwitchyardError(
            'queue_full',
            `requests of ${this.#bytes} bytes are being read; the limit of all together is ${this.#bytesMax}`,
          );
        held += bytes;
        this.#bytes += bytes;
      },
      end: () => {
        this.#bytes -= held;
        held = 0;
      },
    };
  }
}
