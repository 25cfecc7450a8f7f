/** Where a worker's time goes, in the order of `Stats.seconds`. */
export const Activity = { attention: 0, exchangeWait: 1, expertsOwn: 2, expertsOthers: 3, sampling: 4, other: 5, idle: 6 } as const;
export type Activity = (typeof Activity)[keyof typeof Activity];

/**
 * Seconds by activity; every second is counted once. Work is booked by sections, which do not nest. Time between sections belongs to the background: what the
 * worker as a whole is doing meanwhile, which is waiting for rows when each of its steps does.
 */
export class TimeSplit {
  /** Index: Activity. */
  readonly seconds = new Float64Array(7);
  /** When a section of each activity last ended, in milliseconds of `performance.now()`. */
  readonly endedMs = new Float64Array(7).fill(Number.NEGATIVE_INFINITY);
  private background: Activity = Activity.idle;
  /** Everything before is booked; milliseconds of `performance.now()`. */
  private settledMs = performance.now();

  /** Books a section that began at `startMs` and ends now. Returns now. */
  add(activity: Activity, startMs: number): number {
    this.settle(startMs);
    const now = performance.now();
    this.seconds[activity] += (now - this.settledMs) / 1000;
    this.settledMs = now;
    this.endedMs[activity] = now;
    return now;
  }

  /** What goes on while no section runs, from now on. */
  enter(background: Activity): void {
    this.settle(performance.now());
    this.background = background;
  }

  /** Books the background up to `nowMs`. */
  settle(nowMs: number): void {
    if (nowMs <= this.settledMs) return;
    this.seconds[this.background] += (nowMs - this.settledMs) / 1000;
    this.settledMs = nowMs;
  }
}
