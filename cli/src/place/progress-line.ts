/** Between two looks of whoever watches a terminal: searches tell of every few milliseconds. */
const repaintMs = 100;

/** One line on stderr that says where the search is: rewritten in a terminal, one line per stage elsewhere. */
export class ProgressLine {
  private readonly stream: NodeJS.WriteStream;
  private readonly startMs = performance.now();
  private readonly bound: number | null;
  private lastStage = '';
  private paintedMs = 0;
  private shown = false;

  /** @param bound proven lower bound on the incumbent's number, where one is known */
  constructor(bound: number | null, stream: NodeJS.WriteStream = process.stderr) {
    this.bound = bound;
    this.stream = stream;
  }

  /** @param incumbent the best so far; null: what is searched has no number before its end */
  update(stage: string, incumbent: number | null): void {
    const now = performance.now();
    if (stage === this.lastStage && now - this.paintedMs < repaintMs) return;
    this.paintedMs = now;
    const seconds = ((now - this.startMs) / 1000).toFixed(1);
    const gap =
      this.bound === null || this.bound <= 0 || incumbent === null
        ? ''
        : `  bound ${this.bound.toFixed(4)}  gap ${(100 * (incumbent / this.bound - 1)).toFixed(1)}%`;
    const best = incumbent === null ? '' : `  incumbent ${incumbent.toFixed(4)}`;
    const line = `${seconds.padStart(6)} s  ${stage}${best}${gap}`;
    if (this.stream.isTTY) this.stream.write(`\r\x1b[2K${line}`);
    else if (stage !== this.lastStage) this.stream.write(`${line}\n`);
    this.lastStage = stage;
    this.shown = true;
  }

  finish(): void {
    if (this.shown && this.stream.isTTY) this.stream.write('\r\x1b[2K');
  }
}
