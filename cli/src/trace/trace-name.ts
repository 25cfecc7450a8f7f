import { CommandFailure, exitStatus } from '../failure.ts';

/** Refuses a name by which a written trace could not be read again: what ends in `.gz` is unpacked, and traces are written as they are. */
export function checkTraceName(file: string, option: string): void {
  if (file.endsWith('.gz'))
    throw new CommandFailure(`${option} ${file}: traces are written unpacked; choose a name without .gz`, { status: exitStatus.usage });
}
