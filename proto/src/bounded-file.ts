import { closeSync, fstatSync, openSync, readSync } from 'node:fs';

/** Room for what does not say how long it is, to begin with. */
const FIRST_BYTES = 64 * 1024;

/**
 * What a file holds. How much a pipe (a shell's `<(…)`) or a device has is known only once it has been read, and some have no end.
 *
 * @throws Error when it has more than `bytesMax`, and what the system says
 */
export function readBoundedFile(file: string, bytesMax: number): Buffer {
  const descriptor = openSync(file, 'r');
  try {
    // One byte more than it has, or may have: that nothing follows has to be seen.
    let room = Buffer.alloc(Math.min(fstatSync(descriptor).size || FIRST_BYTES, bytesMax) + 1);
    for (let length = 0; ; ) {
      const read = readSync(descriptor, room, length, room.length - length, null);
      if (read === 0) return room.subarray(0, length);
      length += read;
      if (length > bytesMax) throw new Error(`it has more than ${bytesMax} bytes`);
      if (length === room.length) room = Buffer.concat([room], Math.min(2 * length, bytesMax + 1));
    }
  } finally {
    closeSync(descriptor);
  }
}
