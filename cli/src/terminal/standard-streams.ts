import { exitStatus } from '../failure.ts';
import { coloursOf } from './colours.ts';

/** What is done once nobody reads standard output any more. A failure that was found until then stays one. */
let leave: () => void = () => process.exit(process.exitCode ?? exitStatus.ok);

/** For a command that has something to end first. */
export function onReaderGone(end: () => void): void {
  leave = end;
}

/**
 * A reader that goes away (`| head`) is no failure of ours; a disk that is full is one. What stands beside the result, on stderr, may be lost: it takes nothing
 * from the result.
 */
export function watchStandardStreams(): void {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') return leave();
    process.stderr.write(`${coloursOf(process.stderr).red('error:')} standard output: ${error.message}\n`);
    process.exit(exitStatus.failed);
  });
  process.stderr.on('error', () => {});
}
