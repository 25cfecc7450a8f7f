/**
 * Memory for frames. To the engine every ArrayBuffer is a thing of its own to make, count and collect, which costs more than copying a small frame into it; so small
 * frames share one, each with bytes of its own. Whoever is the last to need a frame gives it back, and its memory is used again: else the kernel clears fresh pages
 * for each, and what it takes has the whole heap collected again and again.
 */
const SHARE_BYTES = 512 * 1024;
/** Larger frames have an ArrayBuffer of their own: a share is not used again before the last of its frames is given back. */
const SHARED_FRAME_BYTES_MAX = 64 * 1024;
/** Views of any element type may begin at a frame. */
const ALIGNMENT = 64;
/** Given back and not in use. More than that is left to the garbage collector: of large frames all of it, for sizes change with the load. */
const KEPT_SHARES_MAX = 16;
const KEPT_BYTES_MAX = 64 * 1024 * 1024;

interface Share {
  readonly memory: Buffer;
  /** Bytes from the beginning that frames have had since it was last empty. */
  used: number;
  /** Frames that are not given back. */
  lent: number;
}

const shares = new WeakMap<ArrayBufferLike, Share>();
let share = newShare();
const keptShares: Share[] = [];
/** By size. */
const kept = new Map<number, ArrayBuffer[]>();
let keptBytes = 0;
/** Large frames' memory in use: nothing else can be given back, and that only once. */
const lent = new WeakSet<ArrayBufferLike>();

/** Not zeroed. What is not given back is collected like any other. */
export function frameMemory(bytes: number): Buffer {
  if (bytes > SHARED_FRAME_BYTES_MAX) return Buffer.from(largeMemory(sizeFor(bytes)), 0, bytes);
  if (share.used + bytes > SHARE_BYTES) share = keptShares.pop() ?? newShare();
  const frame = share.memory.subarray(share.used, share.used + bytes);
  share.used += Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
  share.lent++;
  return frame;
}

/** Nobody reads or writes the frame any more, nor any view of it; said once for each. Of no effect for memory that is not from here. */
export function giveBackFrame(frame: Uint8Array): void {
  const memory = frame.buffer as ArrayBuffer;
  const shared = shares.get(memory);
  if (shared === undefined) keepLarge(memory);
  else if (--shared.lent === 0) keepShare(shared);
}

function newShare(): Share {
  const made = { memory: Buffer.allocUnsafeSlow(SHARE_BYTES), used: 0, lent: 0 };
  shares.set(made.memory.buffer, made);
  return made;
}

/** The share in hand begins again: few frames at a time stay in the processor's caches. */
function keepShare(empty: Share): void {
  empty.used = 0;
  if (empty !== share && keptShares.length < KEPT_SHARES_MAX) keptShares.push(empty);
}

function largeMemory(size: number): ArrayBuffer {
  let memory = kept.get(size)?.pop();
  if (memory === undefined) memory = Buffer.allocUnsafeSlow(size).buffer as ArrayBuffer;
  else keptBytes -= size;
  lent.add(memory);
  return memory;
}

function keepLarge(memory: ArrayBuffer): void {
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

/** To an eighth of a power of two, so that frames of nearly one size share memory. */
function sizeFor(bytes: number): number {
  const step = 2 ** (Math.floor(Math.log2(bytes)) - 3);
  return Math.ceil(bytes / step) * step;
}
