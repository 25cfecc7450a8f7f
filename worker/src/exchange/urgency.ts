import type { Urgency } from './flights.ts';

/** Frames of so few rows are urgent: a decode step's. */
const URGENT_ROWS_MAX = 64;

export function urgencyOf(rows: number): Urgency {
  return rows <= URGENT_ROWS_MAX ? 'urgent' : 'bulk';
}
