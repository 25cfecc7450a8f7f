import { urgencyOf } from './urgency.ts';

/** A frame that waits to be served; arrivals are listed oldest first. */
export interface WaitingFrame {
  readonly rows: number;
  /** Its client takes no answers now. */
  readonly blocked: boolean;
  /** Frames that were served before it although they arrived later. */
  readonly passed: number;
}

/** How many frames may pass a large one. */
const PASSED_MAX = 8;

/**
 * The index of the frame to serve next, or -1. Frames of few rows pass larger ones, so that decode steps do not wait for prompts, but not for ever. What a row's sum
 * is does not depend on it. Pure.
 */
export function nextToServe(waiting: readonly WaitingFrame[]): number {
  const oldest = waiting.findIndex(({ blocked }) => !blocked);
  if (oldest < 0 || waiting[oldest].passed >= PASSED_MAX) return oldest;
  const urgent = waiting.findIndex(({ rows, blocked }) => !blocked && urgencyOf(rows) === 'urgent');
  return urgent < 0 ? oldest : urgent;
}

/** Whether another frame of the layer may be served with the one whose turn it is. With one of few rows only such: it passed the large ones so as not to wait for them. */
export function goesAlong(first: WaitingFrame, other: WaitingFrame): boolean {
  return !other.blocked && (urgencyOf(first.rows) === 'bulk' || urgencyOf(other.rows) === 'urgent');
}
