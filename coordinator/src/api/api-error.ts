import { type ErrorCode, errorCatalogue, SwitchyardError } from '@switchyard/proto';
import { bounds } from '../bounds.ts';
import { DetailedError } from '../detailed-error.ts';
import { ForeignHeader } from './allowed-hosts.ts';

interface ErrorReply {
  status: number;
  headers: Record<string, string>;
  /** OpenAI's envelope as JSON. */
  body: string;
  code: ErrorCode;
}

/** Anything that was thrown, as what a client is told. What we did not foresee is `internal`: its message stays in the log. */
export function errorReply(error: unknown): ErrorReply {
  const known =
    error instanceof SwitchyardError
      ? error
      : new SwitchyardError('internal', 'the server failed; its log says more under this request id');
  const { status, type } = errorCatalogue[known.code];
  const retryAfter = (bounds.retryAfterSeconds as Partial<Record<ErrorCode, number>>)[known.code];
  const details = known instanceof DetailedError ? known.details : {};
  return {
    status: known instanceof ForeignHeader ? 403 : status,
    headers: {
      ...(retryAfter === undefined ? {} : { 'retry-after': String(retryAfter) }),
      ...(known.code === 'unauthorized' ? { 'www-authenticate': 'Bearer' } : {}),
    },
    body: JSON.stringify({ error: { message: known.message, type, param: known.param, code: known.code, ...details } }),
    code: known.code,
  };
}
