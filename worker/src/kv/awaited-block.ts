import type { Schedulable } from '../engine/schedule.ts';
import type { Sequence } from '../engine/sequence.ts';

/** A block of a common beginning that another sequence computes. */
export class AwaitedBlock {
  private readonly by: Sequence;
  /** Tokens up to its end. */
  private readonly end: number;
  /** Tokens of the whole common beginning. */
  private readonly common: number;
  private readonly blockTokens: number;

  constructor(by: Sequence, { end, common, blockTokens }: { end: number; common: number; blockTokens: number }) {
    this.by = by;
    this.end = end;
    this.common = common;
    this.blockTokens = blockTokens;
  }

  /** Tokens of the common beginning in blocks that are there already, this one and those behind it too. */
  get tokensThere(): number {
    return Math.floor(Math.min(this.by.computed, this.common) / this.blockTokens) * this.blockTokens;
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
