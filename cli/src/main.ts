#!/usr/bin/env node
import { CommanderError } from 'commander';
import { ApiError } from './api/client.ts';
import { CommandFailure, exitStatus } from './failure.ts';
import { coloursOf } from './terminal/colours.ts';
import { watchStandardStreams } from './terminal/standard-streams.ts';
import { visible } from './terminal/visible.ts';

/** Ends with the status that says what happened: 0 done, 1 failed, 2 wrong usage, 130 interrupted. Only a defect of ours shows a stack. */
async function main(): Promise<void> {
  try {
    // Not before: kernels that are missing, or of another version, are told like everything else that fails.
    const { createProgram } = await import('./program.ts');
    await createProgram().parseAsync(process.argv);
  } catch (error) {
    process.exitCode = report(error);
  }
}

function report(error: unknown): number {
  const { red } = coloursOf(process.stderr);
  /** Messages repeat what servers and files say. */
  const say = (text: string) => process.stderr.write(`${red('error:')} ${visible(text, process.stderr)}\n`);
  // Commander has printed its own message; help and version count as done.
  if (error instanceof CommanderError) return error.exitCode === 0 ? exitStatus.ok : exitStatus.usage;
  if (error instanceof CommandFailure) {
    if (error.message) say(error.message);
    return error.status;
  }
  // What an interrupted command waited for was given up: the wish was the user's.
  if (error instanceof Error && error.name === 'AbortError') return exitStatus.interrupted;
  if (error instanceof ApiError) say(`the server says: ${error.message}`);
  else if (isRefusedBySystem(error) || isUnsupported(error)) say(error.message);
  else if (isCatalogued(error)) say(`${error.message} (${error.code})`);
  else say(error instanceof Error ? (error.stack ?? error.message) : String(error));
  return exitStatus.failed;
}

/** An error of our catalogue, whichever copy of the package threw it. */
function isCatalogued(error: unknown): error is Error & { code: string } {
  return error instanceof Error && error.name === 'SwitchyardError';
}

/** What this machine or this build of the kernels cannot do, like computing on a GPU that is not there. */
function isUnsupported(error: unknown): error is Error {
  return error instanceof Error && error.name === 'NativeError' && 'status' in error && error.status === 'unsupported';
}

/** A file or an address that the system did not let us have: its message names both. */
function isRefusedBySystem(error: unknown): error is NodeJS.ErrnoException {
  return error instanceof Error && 'syscall' in error && 'errno' in error;
}

watchStandardStreams();
await main();
