/**
 * Memory for frames. To the engine every ArrayBuffer is a thing of its own to make, count and collect, which costs more than copying a small frame into it; so
 * small frames share one, each with its bytes to itself, never used twice. Large frames have one each, which whoever is the last to need it gives back: else a
 * prompt's megabytes per layer have the whole heap collected again and again, and the kernel clear fresh pages for each.
 */
const SHARED_BYTES = 512 * 1024;
/** Larger frames have an ArrayBuffer of their own: a share that is kept for long keeps all of it. */
const SHARE_BYTES_MAX = 64 * 1024;
/** Views of any element type may begin at a frame. */
const ALIGNMENT = 64;
/** Given back and not in use. More than that is left to the garbage collector, all of it: sizes change with the load. */
const KEPT_BYTES_MAX = 64 * 1024 * 1024;

let shared: Buffer = Buffer.alloc(0);
let used = 0;
/** By size. */
const kept = new Map<number, ArrayBuffer[]>();
let keptBytes = 0;
/** Large frames' memory in use: nothing else can be given back, and that only once. */
const lent = new WeakSet<ArrayBufferLike>();

/** Not zeroed. What is not given back is collected like any other. */
export function frameMemory(bytes: number): Buffer {
  if (bytes > SHARE_BYTES_MAX) return Buffer.from(largeMemory(sizeFor(bytes)), 0, bytes);
  if (used + bytes > shared.length) {
    shared = Buffer.allocUnsafeSlow(SHARED_BYTES);
    used = 0;
  }
  const frame = shared.subarray(used, used + bytes);
  used += Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
  return frame;
}

/** Nobody reads or writes the frame any more, nor any view of it. Of no effect for small frames and for memory that is not from here. */
export function giveBackFrame(frame: Uint8Array): void {
  const memory = frame.buffer as ArrayBuffer;
  if (!lent.delete(memory) || memory.byteLength > KEPT_BYTES_MAX) return;
  if (keptBytes + memory.byteLength > KEPT_BYTES_MAX) {
    kept.clear();
    keptBytes = 0;
  }
  const sameSize = kept.get(memory.byteLength);
  if (sameSize === undefined) kept.set(memory.byteLength, [memory]);
  else sameSize.push(memory);
  keptBytes += memory.byteLength;
}

function largeMemory(size: number): ArrayBuffer {
  let memory = kept.get(size)?.pop();
  if (memory === undefined) memory = Buffer.allocUnsafeSlow(size).buffer as ArrayBuffer;
  else keptBytes -= size;
  lent.add(memory);
  return memory;
}

/** To an eighth of a power of two, so that frames of nearly one size share memory. */
function sizeFor(bytes: number): number {
  const step = 2 ** (Math.floor(Math.log2(bytes)) - 3);
  return Math.ceil(bytes / step) * step;
}
