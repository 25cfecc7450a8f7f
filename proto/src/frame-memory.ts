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
  /** Frames that are not given back, and where they begin, in units of ALIGNMENT. */
  lent: number;
  readonly lentAt: Uint8Array;
}

const shares = new WeakMap<ArrayBufferLike, Share>();
let share = newShare();
const keptShares: Share[] = [];
/** By size. */
const kept = new Map<number, ArrayBuffer[]>();
let keptBytes = 0;
/** Large frames' memory in use. */
const lent = new WeakSet<ArrayBufferLike>();

/** Not zeroed. What is not given back is collected like any other. */
export function frameMemory(bytes: number): Buffer {
  if (bytes > SHARED_FRAME_BYTES_MAX) return Buffer.from(largeMemory(sizeFor(bytes)), 0, bytes);
  if (share.used + bytes > SHARE_BYTES) share = keptShares.pop() ?? newShare();
  const frame = share.memory.subarray(share.used, share.used + bytes);
  share.lentAt[share.used / ALIGNMENT] = 1;
  share.used += Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
  share.lent++;
  return frame;
}

/** Nobody reads or writes the frame any more, nor any view of it. Of no effect for memory that is not from here, or that was given back already. */
export function giveBackFrame(frame: Uint8Array): void {
  const memory = frame.buffer as ArrayBuffer;
  const shared = shares.get(memory);
  if (shared === undefined) keepLarge(memory);
  else takeBack(shared, Math.floor(frame.byteOffset / ALIGNMENT));
}

function newShare(): Share {
  const made = { memory: Buffer.allocUnsafeSlow(SHARE_BYTES), used: 0, lent: 0, lentAt: new Uint8Array(SHARE_BYTES / ALIGNMENT) };
  shares.set(made.memory.buffer, made);
  return made;
}

function takeBack(from: Share, at: number): void {
  if (from.lentAt[at] === 0) return;
  from.lentAt[at] = 0;
  if (--from.lent > 0) return;
  from.used = 0;
  // The share in hand begins again: few frames at a time stay in the processor's caches.
  if (from !== share && keptShares.length < KEPT_SHARES_MAX) keptShares.push(from);
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
