/** Frames between a transport and the receiver. Those that arrive before `onFrame` are kept, in order, up to a bound; the transport pauses beyond it. */
export class FrameInbox {
  readonly #bytesMax: number;
  #early: Uint8Array[] = [];
  #earlyBytes = 0;
  #receive: ((frame: Uint8Array) => void) | null = null;
  #resume: (() => void) | null = null;
  #stopped = false;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  /** @returns false when the transport should stop reading until `resume` is called. */
  deliver(frame: Uint8Array, resume: () => void): boolean {
    if (this.#receive !== null) {
      this.#receive(frame);
      return true;
    }
    this.#early.push(frame);
    this.#earlyBytes += frame.length;
    if (this.#earlyBytes < this.#bytesMax) return true;
    this.#resume = resume;
    return false;
  }

  onFrame(receive: (frame: Uint8Array) => void): void {
    if (this.#receive !== null) throw new Error('onFrame is set once per link');
    this.#receive = receive;
    const early = this.#early;
    this.#early = [];
    for (const frame of early) if (!this.#stopped) receive(frame);
    const resume = this.#resume;
    this.#resume = null;
    resume?.();
  }

  /** Who receives has closed the link, perhaps while it is handed what came early: it wants no more. */
  stop(): void {
    this.#stopped = true;
    this.#early = [];
  }
}
