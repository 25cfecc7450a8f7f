/**
 * Frames between a transport and the receiver. Those that arrive before `onFrame`, or during a pause, are kept, in order, up to a bound; the transport stops reading
 * beyond it.
 */
export class FrameInbox {
  readonly #bytesMax: number;
  #kept: Uint8Array[] = [];
  #keptBytes = 0;
  #receive: ((frame: Uint8Array) => void) | null = null;
  #paused = false;
  #resume: (() => void) | null = null;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  /** @returns false when the transport should stop reading until `resume` is called. */
  deliver(frame: Uint8Array, resume: () => void): boolean {
    if (this.#receive !== null && !this.#paused) {
      this.#receive(frame);
      return true;
    }
    this.#kept.push(frame);
    this.#keptBytes += frame.length;
    if (this.#keptBytes < this.#bytesMax) return true;
    this.#resume = resume;
    return false;
  }

  onFrame(receive: (frame: Uint8Array) => void): void {
    if (this.#receive !== null) throw new Error('onFrame is set once per link');
    this.#receive = receive;
    this.#handOver();
  }

  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    this.#paused = false;
    this.#handOver();
  }

  /** Who receives has closed the link, perhaps while it is handed what was kept, and wants no more; or the link has broken. */
  stop(): void {
    this.#kept = [];
  }

  /** Who receives may pause again, or close the link, at any frame. */
  #handOver(): void {
    while (this.#receive !== null && !this.#paused && this.#kept.length > 0) {
      const frame = this.#kept.shift()!;
      this.#keptBytes -= frame.length;
      this.#receive(frame);
    }
    if (this.#kept.length > 0) return;
    const resume = this.#resume;
    this.#resume = null;
    resume?.();
  }
}
