import { SwitchyardError } from '@switchyard/proto';
import { tenantPart } from '../requests/waiting-answers.ts';

/** What one request holds of a memory that all share, until it ends. */
export interface MemoryLease {
  /** Of all leases together. */
  readonly bytesMax: number;
  /** What it holds. */
  readonly bytes: number;
  /** @param bytes that it holds from now on, all together. @throws SwitchyardError `queue_full` when all leases together would take too much */
  hold(bytes: number): void;
  end(): void;
}

interface LeasedMemoryOptions {
  bytesMax: number;
  /** What every lease may have besides: small things are never refused because of large ones. */
  bytesFree?: number;
  /** Of bytesMax, what those of one tenant may have. */
  tenantBytesMax?: number;
  /** Of what is refused: what it holds, and what has it do so. */
  holds: { what: string; why: string };
}

/** Bytes that requests hold, all together. Each has its own bound; thousands of them, kept for as long as a client is slow, would take all memory there is. */
export class LeasedMemory {
  readonly #options: LeasedMemoryOptions;
  #bytes = 0;
  readonly #tenantBytes = new Map<string, number>();

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
  static ofAnswers(bytesMax: number, bytesFree: number, tenants = 1): LeasedMemory {
    const tenantBytesMax = tenantPart(bytesMax, tenants);
    return new LeasedMemory({ bytesMax, bytesFree, tenantBytesMax, holds: { what: "answers and prompts' ids", why: 'are in memory' } });
  }

  /**
   * @param what it is for, where a refusal should say so
   * @param tenantOf whose it is, from the first byte on
   */
  lease(what?: string, tenantOf: () => string = () => ''): MemoryLease {
    const { bytesMax, bytesFree = 0, tenantBytesMax = bytesMax, holds } = this.#options;
    const counted = (bytes: number) => Math.max(0, bytes - bytesFree);
    let held = 0;
    let ended = false;
    const check = (bytes: number, taken: number, more: number, limit: number, whose: string) => {
      if (more > 0 && taken + more > limit)
        throw new SwitchyardError(
          'queue_full',
          `${what === undefined ? '' : `${what} take ${bytes} bytes: `}${holds.what}${whose} of ${taken} bytes ${holds.why}; the limit of all together is ${limit}`,
        );
    };
    return {
      bytesMax,
      get bytes() {
        return held;
      },
      hold: (bytes) => {
        if (ended) return; // The client has gone: what is made for it all the same is garbage at once.
        const more = counted(bytes) - counted(held);
        check(bytes, this.#bytes, more, bytesMax, '');
        check(bytes, this.#tenantBytes.get(tenantOf()) ?? 0, more, tenantBytesMax, ' of your own');
        held = bytes;
        this.#add(tenantOf(), more);
      },
      end: () => {
        ended = true;
        this.#add(tenantOf(), -counted(held));
        held = 0;
      },
    };
  }

  #add(tenant: string, bytes: number): void {
    this.#bytes += bytes;
    const own = (this.#tenantBytes.get(tenant) ?? 0) + bytes;
    if (own > 0) this.#tenantBytes.set(tenant, own);
    else this.#tenantBytes.delete(tenant);
  }
}
