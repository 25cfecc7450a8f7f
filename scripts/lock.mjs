import { closeSync, mkdirSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import path from 'node:path';

const pollMs = 200;
const waitMsMax = 15 * 60 * 1000;

/**
 * Takes an exclusive lock, a file that holds the owner's process id, and waits while a living process has it. A lock whose owner is gone is taken over.
 * Returns the function that gives it back; it is given back on exit too, so that a step that ends the process does not leave it behind.
 */
export function takeLock(file, onWait) {
  mkdirSync(path.dirname(file), { recursive: true });
  const deadline = Date.now() + waitMsMax;
  for (let waited = false; !tryLock(file); waited = true) {
    if (ownerIsGone(file)) {
      rmSync(file, { force: true });
      continue;
    }
    if (!waited) onWait();
    if (Date.now() > deadline)
      throw new Error(`the lock ${file} was held for more than ${waitMsMax / 60_000} minutes: remove it if nothing runs`);
    sleep(pollMs);
  }
  const release = () => rmSync(file, { force: true });
  process.once('exit', release);
  for (const [signal, status] of [
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ])
    process.once(signal, () => process.exit(status));
  return () => {
    process.off('exit', release);
    release();
  };
}

function tryLock(file) {
  try {
    const handle = openSync(file, 'wx');
    writeSync(handle, String(process.pid));
    closeSync(handle);
    return true;
  } catch (error) {
    if (error.code === 'EEXIST') return false;
    throw error;
  }
}

function ownerIsGone(file) {
  let text;
  try {
    text = readFileSync(file, 'utf8');
  } catch {
    return false; // given back between our two looks: try again
  }
  const pid = Number(text);
  if (text === '' || !Number.isInteger(pid)) return false; // being written this moment
  try {
    process.kill(pid, 0);
    return false;
  } catch (error) {
    return error.code === 'ESRCH';
  }
}

function sleep(ms) {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}
