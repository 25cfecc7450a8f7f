import type { Schedulable } from '../engine/schedule.ts';
import type { Sequence } from '../engine/sequence.ts';

/** A block of a common beginning that another sequence computes. */
export class AwaitedBlock {
  private readonly by: Sequence;
  /** Tokens up to its end. */
  private readonly end: number;

  constructor(by: Sequence, end: number) {
    this.by = by;
    this.end = end;
  }

  /** Whoever has let go of its blocks computes nothing. */
  get isToCome(): boolean {
    return this.isMissing && this.by.blockCount > 0;
  }

  isUnderWay(computing: readonly Schedulable[]): boolean {
    return this.isMissing && computing.includes(this.by);
  }

  private get isMissing(): boolean {
    return this.by.computed < this.end && !this.by.ending;
  }
}
