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

/**
 * Names of the beginnings of a prompt, one at every `prefixStrideTokens`-th token: 53-bit hashes of tenant and tokens. A collision costs a cache miss or a worse
 * home, nothing else.
 */
export function prefixPoints(tenant: string, prompt: ArrayLike<number>): number[] {
  const points: number[] = [];
  // Two 32-bit FNV-1a hashes with different beginnings.
  let a = 0x811c9dc5;
  let b = 0x1b873593;
  for (let i = 0; i < tenant.length; i++) {
    a = Math.imul(a ^ tenant.charCodeAt(i), 0x01000193);
    b = Math.imul(b ^ tenant.charCodeAt(i), 0x01000193);
  }
  const end = Math.min(prompt.length, bounds.prefixStrideTokens * bounds.prefixPointsMax);
  for (let i = 0; i < end; i++) {
    a = Math.imul(a ^ prompt[i], 0x01000193);
    b = Math.imul(b ^ (prompt[i] + 0x9e37), 0x01000193);
    if ((i + 1) % bounds.prefixStrideTokens === 0) points.push((a >>> 0) * 0x20_0000 + (b >>> 11));
  }
  return points;
}
