import { allocateFrame } from '@switchyard/proto';

/** Frames kept for the next use; a step has one on its way to each destination. */
const KEPT_MAX = 64;

/** Memory of frames that have come home: a link reads a frame until it is written, so it is used again only once its answer is there. */
export class FramePool {
  private readonly free: Uint8Array[] = [];

  /** Exactly `bytes` long, 8-byte aligned, not zeroed. */
  take(bytes: number): Uint8Array {
    const fits = this.free.findIndex((frame) => frame.length >= bytes);
    const memory = fits < 0 ? allocateFrame(roundedUp(bytes)) : this.free.splice(fits, 1)[0];
    return memory.subarray(0, bytes);
  }

  /** The frame's answer has arrived. A frame whose answer never came is not given back. */
  give(frame: Uint8Array): void {
    if (this.free.length < KEPT_MAX) this.free.push(new Uint8Array(frame.buffer));
  }
}

/** To a quarter of a power of two, so that frames of nearly one size share memory. */
function roundedUp(bytes: number): number {
  const step = Math.max(1024, 2 ** (Math.floor(Math.log2(bytes)) - 2));
  return Math.ceil(bytes / step) * step;
}
