/** How far a step has come. A step that follows another over the same sequences begins segment i when the one ahead has written its keys and values there. */
export class StepProgress {
  private segments = 0;
  private waiting: { segment: number; resolve: () => void }[] = [];

  /** The next segment is done. */
  advance(): void {
    this.segments++;
    if (this.waiting.length > 0) this.release();
  }

  /** The step is over, however it went: nothing waits for it any longer. */
  end(): void {
    this.segments = Number.POSITIVE_INFINITY;
    this.release();
  }

  /** Null when segment `index` is done, else resolves when it is. */
  passed(index: number): Promise<void> | null {
    if (this.segments > index) return null;
    return new Promise((resolve) => {
      this.waiting.push({ segment: index, resolve });
    });
  }

  private release(): void {
    const due = this.waiting.filter(({ segment }) => segment < this.segments);
    this.waiting = this.waiting.filter(({ segment }) => segment >= this.segments);
    for (const { resolve } of due) resolve();
  }
}
