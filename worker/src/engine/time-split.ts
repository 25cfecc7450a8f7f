/** Where a worker's time goes, in the order of `Stats.seconds`. */
export const Activity = { attention: 0, exchangeWait: 1, expertsOwn: 2, expertsOthers: 3, sampling: 4, other: 5, idle: 6 } as const;
export type Activity = (typeof Activity)[keyof typeof Activity];

/**
 * Seconds by activity. Waiting and idling are interrupted by work for other homes, which is counted as such: every second is counted once.
 */
export class TimeSplit {
  /** Index: Activity. */
  readonly seconds = new Float64Array(7);

  /** Adds the time since `startMs` and returns now, in milliseconds of `performance.now()`. */
  add(activity: Activity, startMs: number): number {
    const now = performance.now();
    this.seconds[activity] += (now - startMs) / 1000;
    return now;
  }

  /** Adds an interval in which the worker may have served others: what it spent on that since `othersBefore` (seconds) is left out. */
  addWaiting(activity: Activity, startMs: number, othersBefore: number): number {
    const now = performance.now();
    this.seconds[activity] += Math.max(0, (now - startMs) / 1000 - (this.seconds[Activity.expertsOthers] - othersBefore));
    return now;
  }

  /** Seconds spent on other homes' rows so far. */
  get others(): number {
    return this.seconds[Activity.expertsOthers];
  }
}
