/**
 * Memory for frames that arrive. To the engine every ArrayBuffer is a thing of its own to make, count and collect, which costs more than copying a small frame
 * into it; so small frames share one. Each has its bytes to itself, and none is ever used twice.
 */
const SHARED_BYTES = 512 * 1024;
/** Larger frames have an ArrayBuffer of their own: a share that is kept for long keeps all of it. */
const SHARE_BYTES_MAX = 64 * 1024;
/** Views of any element type may begin at a frame. */
const ALIGNMENT = 64;

let shared: Buffer = Buffer.alloc(0);
let used = 0;

export function frameMemory(bytes: number): Buffer {
  if (bytes > SHARE_BYTES_MAX) return Buffer.allocUnsafeSlow(bytes);
  if (used + bytes > shared.length) {
    shared = Buffer.allocUnsafeSlow(SHARED_BYTES);
    used = 0;
  }
  const frame = shared.subarray(used, used + bytes);
  used += Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
  return frame;
}
