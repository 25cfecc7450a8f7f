import { readBoundedFile } from '@switchyard/proto';
import { CommandFailure, exitStatus } from '../failure.ts';

/** A string of JavaScript ends at twice as much. */
const textBytesMax = 256 * 1024 * 1024;

/** The text of a file that the user named, without the mark that some editors begin it with. @param named as the message names it */
export function readText(file: string, named: string): string {
  try {
    const bytes = readBoundedFile(file, textBytesMax);
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (error) {
    const why = error instanceof TypeError ? 'it is not UTF-8 text' : (error as Error).message;
    throw new CommandFailure(`${named}: ${why}`, { status: exitStatus.usage, cause: error });
  }
}
