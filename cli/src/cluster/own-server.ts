import { setTimeout as sleep } from 'node:timers/promises';
import { CommandFailure, exitStatus } from '../failure.ts';
import { describeEnd, startChild } from './child-process.ts';
import { builtProgram } from './programs.ts';
import type { UpReport } from './up-report.ts';

/** A large model is read from disk before its server is ready. */
const readyMsMax = 15 * 60 * 1000;
const stopGraceMs = 10_000;
/** A connection is seen to end a moment before its process is. */
const endSeenMsMax = 1_000;

export interface OwnServer {
  report: UpReport;
  /** Aborts when it ends without having been stopped, with a CommandFailure that says how. */
  gone: AbortSignal;
  /** What went wrong in talking to it: where it has just ended, that. */
  explain(error: Error): Promise<Error>;
  stop(): Promise<void>;
}

/**
 * Starts `switchyard up` with the given flags as a process of its own, on any free port, and waits until it is ready. In a process of its own because what it
 * costs must not be mixed with what its client costs.
 */
export async function startOwnServer(flags: readonly string[], onLine: (line: string) => void, signal?: AbortSignal): Promise<OwnServer> {
  const interrupted = () => new CommandFailure('', { status: exitStatus.interrupted });
  // An event that has been will not come again.
  if (signal?.aborted) throw interrupted();
  const program = builtProgram();
  let announce: (report: UpReport) => void = () => {};
  const ready = new Promise<UpReport>((resolve) => {
    announce = resolve;
  });
  const child = startChild({
    args: [program, 'up', '--json', '--supervised', '--port', '0', ...flags],
    onStderr: onLine,
    onStdout: (line) => {
      const report = readReport(line);
      // Its help, say.
      if (report === null) onLine(line);
      else announce(report);
    },
  });
  const ended = child.ended.then((end) => {
    // Flags that it does not take are a wrong use of this command.
    const status = end.status === exitStatus.usage ? exitStatus.usage : exitStatus.failed;
    throw new CommandFailure(`the server ${describeEnd(end)} before it was ready:\n${child.lastLines().join('\n')}`, { status });
  });
  const gone = new AbortController();
  let stopping = false;
  const watched = child.ended.then((end) => {
    const message = `the server that was started for this ${describeEnd(end)} meanwhile`;
    if (!stopping) gone.abort(new CommandFailure([message, ...child.lastLines()].join('\n')));
  });
  let timer: NodeJS.Timeout | undefined;
  const tooLong = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new CommandFailure(`the server was not ready within ${readyMsMax / 60_000} minutes`)), readyMsMax);
    signal?.addEventListener('abort', () => reject(interrupted()), { once: true });
  });
  try {
    const report = await Promise.race([ready, ended, tooLong]);
    ended.catch(() => {});
    return {
      report,
      gone: gone.signal,
      async explain(error) {
        await Promise.race([watched, sleep(endSeenMsMax, undefined, { ref: false })]);
        return gone.signal.aborted ? (gone.signal.reason as Error) : error;
      },
      async stop() {
        stopping = true;
        await child.stop(stopGraceMs);
      },
    };
  } catch (error) {
    await child.stop(stopGraceMs);
    throw error;
  } finally {
    clearTimeout(timer);
    tooLong.catch(() => {});
  }
}

function readReport(line: string): UpReport | null {
  try {
    const report = JSON.parse(line) as UpReport | null;
    return report?.format === 'switchyard-up' ? report : null;
  } catch {
    return null;
  }
}
