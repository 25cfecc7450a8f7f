import type { ErrorCode } from '@switchyard/proto';

/**
 * Codes by which a frame comes back that say something of the worker that was asked, or of the way to it. Its rows are in no sum then, and whoever else holds their
 * experts may be asked. What is left (`internal`, `bad_frame`) speaks of the rows themselves and would be said anywhere.
 */
const ofOneWorker: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'bad_plan',
  'version_mismatch',
  'expert_unavailable',
  'not_ready',
  'shutting_down',
  'queue_full',
  'worker_lost',
  'link_closed',
  'deadline_exceeded',
]);

/** Of those, what a worker will say of itself for a while, whatever it is asked. */
const forAWhile: ReadonlySet<ErrorCode> = new Set<ErrorCode>(['bad_plan', 'version_mismatch', 'not_ready', 'shutting_down']);

/** What a worker says of itself. Told to a client as it is, it would be taken for the client's fault, or for its home's: that home is well. */
const ofItself: ReadonlySet<ErrorCode> = new Set<ErrorCode>([...forAWhile, 'queue_full']);

/** Whether another worker may do what was refused with this code. It is no matter of whether a client should try again: that is the catalogue's `retry`. */
export function anotherMayTake(code: ErrorCode): boolean {
  return ofOneWorker.has(code);
}

/** Whether a worker that refuses with this code would refuse the next frame too. */
export function lasts(code: ErrorCode): boolean {
  return forAWhile.has(code);
}

/** What a request fails with when nobody was left to ask. */
export function codeForClient(code: ErrorCode): ErrorCode {
  return ofItself.has(code) ? 'expert_unavailable' : code;
}
