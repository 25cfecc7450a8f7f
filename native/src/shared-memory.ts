import { closeSync, constants, openSync, readlinkSync, statSync } from 'node:fs';
import { addon } from './addon.ts';
import { NativeError, type NativeStatus } from './native-error.ts';

/** Memory that another process can map by its name while this one keeps the name. */
export interface SharedRegion {
  name: string;
  memory: ArrayBuffer;
  /** Nobody can map it by name any more; those who did keep it. */
  unname(): void;
  /** Ends this process's mapping: the memory is an empty array from here on. */
  release(): void;
}

/** A name is the descriptor of the process that made the region, as the kernel shows it to processes of the same user. */
const namePattern = /^\/proc\/\d{1,10}\/fd\/\d{1,10}$/;

export const sharedMemory = {
  create(bytes: number): SharedRegion {
    const descriptor = call(() => addon.sharedMemoryCreate(bytes));
    try {
      const memory = call(() => addon.sharedMemoryMap(descriptor, bytes));
      let named = true;
      const unname = () => {
        if (named) closeSync(descriptor);
        named = false;
      };
      const release = () => {
        unname();
        addon.sharedMemoryUnmap(memory);
      };
      // Not process.pid: the number that this mount of /proc knows the process by.
      return { name: `/proc/${readlinkSync('/proc/self')}/fd/${descriptor}`, memory, unname, release };
    } catch (error) {
      closeSync(descriptor);
      throw error;
    }
  },

  /** @throws NativeError unless the name is that of a region of exactly `bytes` bytes: nothing else is ever opened for writing, whoever gave the name */
  open(name: string, bytes: number): SharedRegion {
    const descriptor = call(() => {
      if (!namePattern.test(name) || !statSync(name).isFile()) throw new NativeError('invalid_argument', 'shared memory: no such region');
      return openSync(name, constants.O_RDWR | constants.O_NONBLOCK);
    });
    try {
      const memory = call(() => addon.sharedMemoryMap(descriptor, bytes));
      return { name, memory, unname: () => {}, release: () => addon.sharedMemoryUnmap(memory) };
    } finally {
      closeSync(descriptor);
    }
  },
};

/** Failures of the addon and of the file system as the one kind of error that native calls have. */
function call<T>(body: () => T): T {
  try {
    return body();
  } catch (error) {
    if (error instanceof NativeError) throw error;
    const { code, message } = error as NodeJS.ErrnoException;
    const status: NativeStatus = code === 'unsupported' || code === 'out_of_memory' || code === 'invalid_argument' ? code : 'io';
    throw new NativeError(status, message);
  }
}
