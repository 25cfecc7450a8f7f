import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { requireAbi } from './abi-version.ts';
import type { Device, Native, NativeObject, Program } from './contract.ts';
import { NativeError } from './native-error.ts';

/** What `native/cpp/napi.cpp` exports: the contract, except for the calls that take plain bytes and words here and objects there. */
export type Addon = Omit<Native, 'deviceDescribe' | 'batchCreate' | 'programCreate' | 'programRun' | 'programTimes'> & {
  /** JSON. */
  deviceDescribe(device: Device): string;
  /** `ops`: 96 bytes each (`sy_op`); `objects`: what their object numbers mean. */
  programCreate(device: Device, ops: Uint8Array, objects: NativeObject[], maxRows: number, maxSeqs: number, maxContext: number): Program;
  /** `words`: see batch.ts. */
  programRun(program: Program, words: Int32Array): void;
  /** Seconds, by number of the op kind. */
  programTimes(program: Program): number[];
};

/** What `native/cpp/napi-shared-memory.cpp` exports. */
export interface SharedMemoryCalls {
  /** A descriptor of memory that other processes may map; whoever closes it takes its name away, not the memory. */
  sharedMemoryCreate(bytes: number): number;
  sharedMemoryMap(descriptor: number, bytes: number): ArrayBuffer;
  sharedMemoryUnmap(memory: ArrayBuffer): void;
}

/** What `native/cpp/napi-core.cpp` exports. */
export interface CoreCalls {
  /** Returns the processor seconds of this thread so far. */
  yieldCore(): number;
}

function load(): Addon & SharedMemoryCalls & CoreCalls {
  const file = fileURLToPath(new URL('../build/switchyard.node', import.meta.url));
  if (!existsSync(file)) throw new NativeError('unsupported', `the kernels are not built: ${file} is missing; run \`npm run build\``);
  const { setErrorClass, ...calls } = createRequire(import.meta.url)(file) as Addon &
    SharedMemoryCalls &
    CoreCalls & { setErrorClass(of: typeof NativeError): void };
  requireAbi(calls.abiVersion(), file);
  setErrorClass(NativeError);
  return calls;
}

export const addon: Addon & SharedMemoryCalls & CoreCalls = load();
