import { dispatchFrameBytes, FRAME_HEADER_BYTES, limits } from '@switchyard/proto';

/** Rows that always fit one dispatch frame and the frame that answers it, whatever their sums: a step has no more, so that each destination gets one frame a layer. */
export function rowsPerFrame(hidden: number, topK: number): number {
  const dispatchRowBytes = dispatchFrameBytes({ rows: 1, pairs: topK, hidden, dtype: 'f32' }) - FRAME_HEADER_BYTES;
  const combineRowBytes = 8 + hidden * 8; // width code, padded, and 64-bit sums
  return Math.min(
    limits.frameRowsMax,
    Math.floor((limits.frameBytesMax - FRAME_HEADER_BYTES) / Math.max(dispatchRowBytes, combineRowBytes)),
  );
}
