import type { ChildProcess } from 'node:child_process';
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';

/** Lines of a child's stderr that are kept to explain its death. */
const lastLinesMax = 20;

export interface Child {
  readonly pid: number;
  /** Resolves once, when the process has ended. Never rejects: a program that cannot start counts as one that ended with status 127. */
  readonly ended: Promise<ChildEnd>;
  /** The last lines that it wrote to stderr. */
  lastLines(): string[];
  /** Asks it to stop (SIGTERM), and kills it when it has not within `graceMs`. */
  stop(graceMs: number): Promise<ChildEnd>;
}

export interface ChildEnd {
  status: number | null;
  signal: NodeJS.Signals | null;
}

export interface ChildOptions {
  args: string[];
  onStderr(line: string): void;
  onStdout(line: string): void;
}

/**
 * Starts one of our own programs under Node. Its stdin is a pipe that only this process holds: when we die, however we die, the pipe closes, and a program
 * that runs `--supervised` ends itself. That is what leaves no orphans after `kill -9`.
 */
export function startChild(options: ChildOptions): Child {
  // A group of its own: a terminal's Ctrl-C reaches the supervisor alone, which then stops its children in order.
  const child: ChildProcess = spawn(process.execPath, options.args, { stdio: ['pipe', 'pipe', 'pipe'], detached: true });
  const lines: string[] = [];
  // A child that died closes its end of the pipe; its `ended` says so.
  child.stdin?.on('error', () => {});
  if (child.stderr)
    createInterface({ input: child.stderr }).on('line', (line) => {
      lines.push(line);
      if (lines.length > lastLinesMax) lines.shift();
      options.onStderr(line);
    });
  if (child.stdout) createInterface({ input: child.stdout }).on('line', options.onStdout);
  const ended = new Promise<ChildEnd>((resolve) => {
    child.once('error', (error) => {
      lines.push(error.message);
      resolve({ status: 127, signal: null });
    });
    child.once('close', (status, signal) => resolve({ status, signal }));
  });
  return {
    pid: child.pid ?? -1,
    ended,
    lastLines: () => [...lines],
    async stop(graceMs) {
      child.kill('SIGTERM');
      const kill = setTimeout(() => child.kill('SIGKILL'), graceMs);
      const end = await ended;
      clearTimeout(kill);
      return end;
    },
  };
}

export function describeEnd(end: ChildEnd): string {
  return end.signal ? `was killed by ${end.signal}` : `exited with status ${end.status}`;
}
