import { bounds } from '../bounds.ts';

/** Codes by which a worker says that it takes nothing new. */
const refusing = new Set(['shutting_down', 'not_ready', 'queue_full']);
/** Codes that tell of the request alone. Any other may tell of the worker; where it does not, the worker rests in vain, for a moment in which others serve. */
const blamingTheRequest = new Set(['invalid_request', 'context_length_exceeded', 'cancelled']);

export function isRefusal(code: string): boolean {
  return refusing.has(code);
}

export function isFailure(code: string): boolean {
  return !refusing.has(code) && !blamingTheRequest.has(code);
}

/**
 * For how long a worker is left alone, while another may be asked, that has ended a request with this code: one that shuts down until it is back, one that fails
 * what it is asked for twice as long each time, up to a bound. Pure.
 *
 * @param failures how often in a row it was found to fail, this time included
 */
export function restMs(code: string, failures: number): number {
  if (code === 'shutting_down') return Number.POSITIVE_INFINITY;
  if (isRefusal(code)) return bounds.refusalRestMs;
  return isFailure(code) ? Math.min(bounds.failureRestMs * 2 ** (failures - 1), bounds.failureRestMsMax) : 0;
}
