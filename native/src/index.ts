import { addon } from './addon.ts';
import { createBatch, wordsOf } from './batch.ts';
import type { Native } from './contract.ts';
import { encodeOps } from './op-encoding.ts';
import { opKind } from './op-kind.ts';

export type * from './contract.ts';
export type { NativeStatus } from './native-error.ts';
export { NativeError } from './native-error.ts';
export { opKind } from './op-kind.ts';
export * as ops from './ops.ts';
export { sharedMemory } from './shared-memory.ts';

/** Lets another thread have this core, and returns at once where none wants it. */
export const yieldCore: () => number = addon.yieldCore;

/** The kernels. Calls are synchronous; calls on one device must come from one thread at a time. */
export const native: Native = {
  ...addon,
  deviceDescribe: (device) => JSON.parse(addon.deviceDescribe(device)),
  batchCreate: createBatch,
  programCreate: (device, ops, maxRows, maxSeqs, maxContext) => {
    const { bytes, objects } = encodeOps(ops);
    return addon.programCreate(device, bytes, objects, maxRows, maxSeqs, maxContext);
  },
  programRun: (program, batch) => addon.programRun(program, wordsOf(batch)),
  programTimes: (program) => {
    const seconds = addon.programTimes(program);
    return Object.fromEntries(Object.entries(opKind).map(([name, kind]) => [name, seconds[kind]!]));
  },
};
