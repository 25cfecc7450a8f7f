import { fstatSync } from 'node:fs';

const PARENT_CHECK_MS = 1_000;

/**
 * Calls `onGone` once when the process that started this one is gone: the pipe that it holds on our stdin closes, or we are handed to another parent. Nothing else
 * tells a child of a supervisor that was killed.
 */
export function watchParent(onGone: () => void): void {
  let gone = false;
  const report = () => {
    if (gone) return;
    gone = true;
    onGone();
  };
  const stdin = fstatSync(0);
  if (stdin.isFIFO() || stdin.isSocket()) {
    process.stdin.resume();
    process.stdin.on('end', report);
    process.stdin.on('error', report);
    process.stdin.unref?.();
  }
  const parent = process.ppid;
  setInterval(() => {
    if (process.ppid !== parent) report();
  }, PARENT_CHECK_MS).unref();
}
