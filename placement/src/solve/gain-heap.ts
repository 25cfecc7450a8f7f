/** A binary heap of entry numbers, largest gain first, ties by lower number. Entries may be stale; the caller looks again. */
export class GainHeap {
  private readonly gain: Float64Array;
  private readonly heap: number[] = [];

  constructor(gain: Float64Array) {
    this.gain = gain;
    for (let i = 0; i < gain.length; i++) if (gain[i] > 0) this.heap.push(i);
    for (let i = (this.heap.length >> 1) - 1; i >= 0; i--) this.sink(i);
  }

  peek(): number {
    return this.heap.length === 0 ? -Infinity : this.gain[this.heap[0]];
  }

  pop(): number {
    if (this.heap.length === 0) return -1;
    const top = this.heap[0];
    const last = this.heap.pop()!;
    if (this.heap.length > 0) {
      this.heap[0] = last;
      this.sink(0);
    }
    return top;
  }

  push(entry: number): void {
    let i = this.heap.length;
    this.heap.push(entry);
    while (i > 0) {
      const parent = (i - 1) >> 1;
      if (!this.before(i, parent)) break;
      this.swap(i, parent);
      i = parent;
    }
  }

  private before(i: number, j: number): boolean {
    const a = this.heap[i];
    const b = this.heap[j];
    return this.gain[a] > this.gain[b] || (this.gain[a] === this.gain[b] && a < b);
  }

  private swap(i: number, j: number): void {
    const held = this.heap[i];
    this.heap[i] = this.heap[j];
    this.heap[j] = held;
  }

  private sink(from: number): void {
    for (let i = from; ; ) {
      const left = 2 * i + 1;
      let best = i;
      if (left < this.heap.length && this.before(left, best)) best = left;
      if (left + 1 < this.heap.length && this.before(left + 1, best)) best = left + 1;
      if (best === i) return;
      this.swap(i, best);
      i = best;
    }
  }
}
