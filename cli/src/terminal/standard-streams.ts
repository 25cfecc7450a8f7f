import pc from 'picocolors';
import { exitStatus } from '../failure.ts';

/** What is done once nobody reads standard output any more. */
let leave: () => void = () => process.exit(exitStatus.ok);

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
    process.stderr.write(`${pc.red('error:')} standard output: ${error.message}\n`);
    process.exit(exitStatus.failed);
  });
  process.stderr.on('error', () => {});
}
