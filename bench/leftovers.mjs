// What a program has started or made outside itself, and takes away however it ends: at its end, by an error, by Ctrl-C or SIGTERM.

/** Status of a program that a signal ended is 128 and the signal's number. */
const signals = { SIGHUP: 1, SIGINT: 2, SIGTERM: 15 };
const works = new Set();

/**
 * @param work ends what was started; without waiting, for the process is about to be gone
 * @returns forgets it: it is done already
 */
export function atEnd(work) {
  if (works.size === 0 && process.listenerCount('exit', doAll) === 0) {
    process.on('exit', doAll);
    for (const [signal, number] of Object.entries(signals)) process.on(signal, () => process.exit(128 + number));
  }
  works.add(work);
  return () => works.delete(work);
}

function doAll() {
  for (const work of works) {
    try {
      work();
    } catch (error) {
      process.stderr.write(`left behind: ${error.message}\n`);
    }
  }
}
