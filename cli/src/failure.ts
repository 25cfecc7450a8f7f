/** What a command's exit status says. Documented in docs/start.md. */
export const exitStatus = { ok: 0, failed: 1, usage: 2, interrupted: 130 } as const;

/** A failure that is the user's to read: printed as one line without a stack, then the process ends with `status`. */
export class CommandFailure extends Error {
  override readonly name = 'CommandFailure';
  readonly status: number;

  constructor(message: string, options: { status?: number; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.status = options.status ?? exitStatus.failed;
  }
}

/** What ended the work early; null: nothing. */
export async function failureOf(work: () => Promise<void>): Promise<Error | null> {
  return await work().then(
    () => null,
    (error: Error) => error,
  );
}
