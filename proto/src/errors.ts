/**
 * The error catalogue: stable code, HTTP status where it reaches a client, OpenAI error type, and whether trying again can help. Codes are never reused.
 * docs/errors.md lists them; a test compares the two in both directions.
 */
export const errorCatalogue = {
  invalid_request: { status: 400, type: 'invalid_request_error', retry: false },
  context_length_exceeded: { status: 400, type: 'invalid_request_error', retry: false },
  unauthorized: { status: 401, type: 'authentication_error', retry: false },
  not_found: { status: 404, type: 'not_found_error', retry: false },
  model_not_found: { status: 404, type: 'not_found_error', retry: false },
  method_not_allowed: { status: 405, type: 'invalid_request_error', retry: false },
  body_too_large: { status: 413, type: 'invalid_request_error', retry: false },
  unsupported_media_type: { status: 415, type: 'invalid_request_error', retry: false },
  queue_full: { status: 503, type: 'overloaded_error', retry: true },
  not_ready: { status: 503, type: 'unavailable_error', retry: true },
  shutting_down: { status: 503, type: 'unavailable_error', retry: true },
  worker_lost: { status: 503, type: 'unavailable_error', retry: true },
  expert_unavailable: { status: 503, type: 'unavailable_error', retry: true },
  deadline_exceeded: { status: 503, type: 'unavailable_error', retry: true },
  cancelled: { status: 499, type: 'invalid_request_error', retry: false },
  bad_checkpoint: { status: 500, type: 'server_error', retry: false },
  bad_plan: { status: 400, type: 'invalid_request_error', retry: false },
  bad_frame: { status: 500, type: 'server_error', retry: false },
  version_mismatch: { status: 500, type: 'server_error', retry: false },
  link_closed: { status: 503, type: 'unavailable_error', retry: true },
  internal: { status: 500, type: 'server_error', retry: false },
} as const;

export type ErrorCode = keyof typeof errorCatalogue;

/** Any failure that crosses a part's boundary. `param` names the field at fault, or null. */
export class SwitchyardError extends Error {
  override readonly name = 'SwitchyardError';
  readonly code: ErrorCode;
  readonly param: string | null;

  constructor(code: ErrorCode, message: string, options: { param?: string | null; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.param = options.param ?? null;
  }
}
