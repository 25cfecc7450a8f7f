/** Counts bytes handed to a transport and not yet written, and wakes whoever waits for room. */
export class SendWindow {
  readonly #bytesMax: number;
  #pendingBytes = 0;
  #waiters: (() => void)[] = [];

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  get pendingBytes(): number {
    return this.#pendingBytes;
  }

  /** @returns false when the sender should wait for `drained`. */
  add(bytes: number): boolean {
    this.#pendingBytes += bytes;
    return this.#pendingBytes < this.#bytesMax;
  }

  remove(bytes: number): void {
    this.#pendingBytes -= bytes;
    if (this.#waiters.length > 0 && this.#hasRoom()) this.#wake();
  }

  /** Nothing will be written any more: nobody need wait. */
  close(): void {
    this.#pendingBytes = 0;
    this.#wake();
  }

  drained(signal?: AbortSignal): Promise<void> {
    if (signal?.aborted) return Promise.reject(signal.reason);
    if (this.#hasRoom()) return Promise.resolve();
    return new Promise((resolve, reject) => {
      const woken = () => {
        signal?.removeEventListener('abort', aborted);
        resolve();
      };
      const aborted = () => {
        this.#waiters = this.#waiters.filter((w) => w !== woken);
        reject(signal!.reason);
      };
      signal?.addEventListener('abort', aborted, { once: true });
      this.#waiters.push(woken);
    });
  }

  /** Half of the bound, so that a waiting sender is not woken for every frame. */
  #hasRoom(): boolean {
    return this.#pendingBytes <= this.#bytesMax / 2;
  }

  #wake(): void {
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const wake of waiters) wake();
  }
}
