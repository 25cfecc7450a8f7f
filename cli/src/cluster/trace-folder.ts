import { accessSync, constants } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { CommandFailure, exitStatus } from '../failure.ts';
import { makeOwnedFolder } from './owned-folder.ts';

/** Where a server keeps the traces that it is asked to record, or why it can keep none. */
export type TraceFolder = { dir: string } | { dir: null; reason: string };

/**
 * Makes the folder of recorded traces. They outlive the server that recorded them, so that it is not in its run folder. Without one that was asked for, traces go where
 * this user's programs keep their state: where there is no such place, the server does without, for tracing is off until somebody wants it.
 *
 * @param asked by --trace-dir; undefined: nobody has
 */
export function traceFolder(asked: string | undefined, env: NodeJS.ProcessEnv = process.env): TraceFolder {
  try {
    const dir = path.resolve(asked ?? path.join(stateFolder(env), 'switchyard', 'traces'));
    makeOwnedFolder(dir);
    accessSync(dir, constants.W_OK);
    return { dir };
  } catch (error) {
    const reason = (error as Error).message;
    if (asked === undefined) return { dir: null, reason };
    throw new CommandFailure(`--trace-dir ${asked}: ${reason}`, { status: exitStatus.usage, cause: error });
  }
}

/** By the XDG base directory specification, which has an empty or relative path mean that there is none. */
function stateFolder({ XDG_STATE_HOME: state }: NodeJS.ProcessEnv): string {
  if (state !== undefined && path.isAbsolute(state)) return state;
  const home = os.homedir();
  if (!path.isAbsolute(home)) throw new Error('you have no home folder');
  return path.join(home, '.local', 'state');
}
