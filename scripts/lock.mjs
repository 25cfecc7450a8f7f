import { closeSync, linkSync, mkdirSync, openSync, readFileSync, renameSync, rmSync, statSync, writeSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';

const pollMs = 200;
const waitMsMax = 15 * 60 * 1000;
/** Between making a lock and writing its owner's name into it there are two system calls. */
const namelessMsMax = 5_000;

/**
 * Takes an exclusive lock, a file that names its owner, and waits while that process lives. A lock whose owner is gone is taken over.
 * Returns the function that gives it back; it is given back on exit too, so that a step that ends the process does not leave it behind.
 */
export async function takeLock(file, onWait) {
  mkdirSync(path.dirname(file), { recursive: true });
  const deadline = Date.now() + waitMsMax;
  for (let waited = false; !tryLock(file); ) {
    const held = heldLock(file);
    if (held === null) continue; // Given back between our two looks.
    if (ownerIsGone(held)) {
      removeLeftover(file, held.text);
      continue;
    }
    if (!waited) onWait();
    waited = true;
    if (Date.now() > deadline)
      throw new Error(`the lock ${file} was held for more than ${waitMsMax / 60_000} minutes: remove it if nothing runs`);
    await wait(pollMs);
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
  let handle;
  try {
    handle = openSync(file, 'wx');
  } catch (error) {
    if (error.code === 'EEXIST') return false;
    throw error;
  }
  try {
    writeSync(handle, [process.pid, birthOf(process.pid)].join(' ').trim());
    return true;
  } catch (error) {
    rmSync(file, { force: true }); // A full disk must not leave a lock of nobody.
    throw error;
  } finally {
    closeSync(handle);
  }
}

/** What tells a process from a later one of the same number, in a container that is started again say: boot and time of its start. Elsewhere than on Linux nothing does. */
function birthOf(pid) {
  try {
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
    // The name, in parentheses, may have spaces; the start is the 20th field after it.
    const start = readFileSync(`/proc/${pid}/stat`, 'utf8')
      .replace(/^.*\) /s, '')
      .split(' ')[19];
    return `${boot}-${start}`;
  } catch {
    return '';
  }
}

function heldLock(file) {
  try {
    return { text: readFileSync(file, 'utf8'), ageMs: Date.now() - statSync(file).mtimeMs };
  } catch (error) {
    if (error.code === 'ENOENT') return null;
    throw error;
  }
}

function ownerIsGone({ text, ageMs }) {
  const [, number, birth] = /^(\d+)(?: (\S+))?$/.exec(text) ?? [];
  if (number === undefined) return ageMs > namelessMsMax;
  const pid = Number(number);
  if (pid === process.pid) return true; // It is not ours: we are only about to take one.
  try {
    process.kill(pid, 0);
  } catch (error) {
    if (error.code === 'ESRCH') return true; // Somebody else's (EPERM) may have the number now.
  }
  const found = birthOf(pid);
  return birth !== undefined && found !== '' && birth !== found;
}

/** Removes the lock if it still is what was looked at. Moved aside first: of several who take over only one has it then, and what another made meanwhile is put back. */
export function removeLeftover(file, text) {
  const aside = `${file}.${process.pid}`;
  try {
    renameSync(file, aside);
    if (readFileSync(aside, 'utf8') !== text) linkSync(aside, file);
  } catch (error) {
    if (error.code !== 'ENOENT' && error.code !== 'EEXIST') throw error;
  } finally {
    rmSync(aside, { force: true });
  }
}
