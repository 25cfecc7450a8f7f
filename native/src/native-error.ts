/** Why the kernels refused. The same names as `sy_status` in `native/include/switchyard.h`. */
export type NativeStatus = 'invalid_argument' | 'unsupported' | 'out_of_memory' | 'io' | 'corrupt';

/** Thrown by every native call that fails. The message names the field, its value and its limit. */
export class NativeError extends Error {
  override readonly name = 'NativeError';
  readonly status: NativeStatus;

  constructor(status: NativeStatus, message: string) {
    super(message);
    this.status = status;
  }
}
