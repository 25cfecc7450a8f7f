import type { ChildProcessWithoutNullStreams } from 'node:child_process';
import { execFileSync, spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { UpReport } from '../../cli/src/cluster/up-report.ts';
import { becomes } from '../becomes.ts';

/** The built program. */
export const programPath = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..', '..', 'cli', 'dist', 'main.js');

export interface Finished {
  status: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

export interface Running {
  child: ChildProcessWithoutNullStreams;
  finished: Promise<Finished>;
  /** What it has written so far. */
  output(): { stdout: string; stderr: string };
}

/** Starts the built program as a user's shell would. */
export function start(args: string[], env: Record<string, string> = {}): Running {
  const child = spawn(process.execPath, [programPath, ...args], { env: { ...process.env, NO_COLOR: '1', ...env } });
  const output = { stdout: '', stderr: '' };
  child.stdout.on('data', (chunk) => {
    output.stdout += chunk;
  });
  child.stderr.on('data', (chunk) => {
    output.stderr += chunk;
  });
  const finished = new Promise<Finished>((resolve) => child.once('close', (status, signal) => resolve({ status, signal, ...output })));
  return { child, finished, output: () => output };
}

/** Runs the built program to its end. */
export async function switchyard(args: string[], input = ''): Promise<Finished> {
  const { child, finished } = start(args);
  child.stdin.end(input);
  return await finished;
}

export interface Up extends Running {
  report: UpReport;
}

/** Starts `switchyard up` on a free port and waits until it serves. It ends with this process at the latest. */
export async function startUp(flags: string[] = []): Promise<Up> {
  const running = start(['up', '--json', '--supervised', '--port', '0', ...flags]);
  const report = await new Promise<UpReport>((resolve, reject) => {
    createInterface({ input: running.child.stdout }).once('line', (line) => resolve(JSON.parse(line) as UpReport));
    void running.finished.then(({ status, stderr }) => reject(new Error(`up ended with status ${status}: ${stderr}`)));
  });
  return { ...running, report };
}

/** Processes whose parent this one is. */
export function childrenOf(parent: number): number[] {
  const lines = processTable().trim().split('\n');
  return lines.map((line) => line.trim().split(/ +/).map(Number)).flatMap(([pid, ppid]) => (ppid === parent ? [pid] : []));
}

/** Number and parent of every process, a line each. Small images of Linux come without `ps`. */
function processTable(): string {
  if (!existsSync('/proc/self/stat')) return execFileSync('ps', ['-A', '-o', 'pid=,ppid='], { encoding: 'utf8' });
  const own = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  return own.map((pid) => `${pid} ${parentOf(pid)}`).join('\n');
}

function parentOf(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/stat`, 'utf8')
      .replace(/^.*\) \S /s, '')
      .split(' ')[0]!;
  } catch {
    return '0'; // It has ended meanwhile.
  }
}

export function processLives(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

/** Waits for a condition that another process brings about. */
export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  await becomes(condition, { everyMs: 20, msMax: 50_000 });
}
