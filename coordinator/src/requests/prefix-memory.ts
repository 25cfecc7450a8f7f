import { randomInt } from 'node:crypto';
import { bounds } from '../bounds.ts';

/**
 * Remembers where prompts were computed, by their beginnings, so that a conversation returns to the worker whose cache has it. A prompt is remembered at its
 * prefix points; the longest remembered beginning of a new one tells its home.
 */
export class PrefixMemory {
  /** Least recently used first. */
  readonly #home = new Map<number, number>();

  /** The worker that computed the longest known beginning, and how many tokens that has; or null. */
  find(points: readonly number[]): { worker: number; tokens: number } | null {
    for (let i = points.length - 1; i >= 0; i--) {
      const worker = this.#home.get(points[i]);
      if (worker !== undefined) return { worker, tokens: (i + 1) * bounds.prefixStrideTokens };
    }
    return null;
  }

  remember(points: readonly number[], worker: number): void {
    for (const point of points) {
      this.#home.delete(point);
      this.#home.set(point, worker);
    }
    for (const oldest of this.#home.keys()) {
      if (this.#home.size <= bounds.prefixesRememberedMax) break;
      this.#home.delete(oldest);
    }
  }

  /** Its cache is gone. */
  forget(worker: number): void {
    for (const [point, home] of this.#home) if (home === worker) this.#home.delete(point);
  }
}

/** Bits of a point that say whose it is, and those that say which beginning. Together a number that a double holds exactly. */
const TENANT_BITS = 13;
const HASH_BITS = 40;

/** 32-bit hash of a beginning that was lengthened by a token. */
type PrefixHash = (hash: number, token: number) => number;

const fnv1a: PrefixHash = (hash, token) => Math.imul(hash ^ token, 0x01000193);

/**
 * Names the beginnings of prompts, one at every `prefixStrideTokens`-th token. No two tenants share a name, whatever their tokens are: with hashes of tenant and
 * tokens alone one could look for prompts that collide with another's and learn whether it has been seen. Inside a tenant a collision costs a cache miss or a worse
 * home, nothing else; which prompts collide differs from process to process.
 */
export class PrefixPoints {
  readonly #serials = new Map<string, number>();
  readonly #seed: [number, number];
  readonly #hash: PrefixHash;

  constructor(seed: [number, number] = [randomInt(2 ** 32), randomInt(2 ** 32)], hash: PrefixHash = fnv1a) {
    this.#seed = seed;
    this.#hash = hash;
  }

  of(tenant: string, prompt: ArrayLike<number>): number[] {
    const points: number[] = [];
    const serial = this.#serialOf(tenant);
    const end = Math.min(prompt.length, bounds.prefixStrideTokens * bounds.prefixPointsMax);
    // Two hashes with different beginnings.
    let [a, b] = this.#seed;
    for (let i = 0; i < end; i++) {
      a = this.#hash(a, prompt[i]);
      b = this.#hash(b, prompt[i] + 0x9e37);
      if ((i + 1) % bounds.prefixStrideTokens === 0) points.push(serial * 2 ** HASH_BITS + (a >>> 0) * 2 ** 8 + (b >>> 24));
    }
    return points;
  }

  /** There are no more tenants than keys. */
  #serialOf(tenant: string): number {
    const known = this.#serials.get(tenant);
    if (known !== undefined) return known;
    const serial = this.#serials.size;
    if (serial >= 2 ** TENANT_BITS) throw new Error(`${serial} tenants`);
    this.#serials.set(tenant, serial);
    return serial;
  }
}
