import { type ErrorCode, SwitchyardError } from '@switchyard/proto';

/** A failure with numbers that programs want to read: they stand in the error envelope beside the message. */
export class DetailedError extends SwitchyardError {
  readonly details: Record<string, number>;

  constructor(code: ErrorCode, message: string, param: string | null, details: Record<string, number>) {
    super(code, message, { param });
    this.details = details;
  }
}
