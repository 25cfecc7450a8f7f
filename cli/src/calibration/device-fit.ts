import type { DeviceModel } from '@switchyard/placement';

/** What the constants are derived from. */
export interface ModelShape {
  moeLayers: number;
  topK: number;
  /** Bytes of one expert as it is resident: what a decode step reads. */
  expertBytes: number;
  /** Arithmetic of one row through one expert. */
  flopsPerRow: number;
}

/** Tokens that went through the model, in so many steps, and what all workers together spent on them. Seconds. */
export interface MeasuredLoad {
  tokens: number;
  steps: number;
  attention: number;
  experts: number;
}

/**
 * The device model by two loads: one stream of decoding, where a step is one row and every expert it needs is read for it alone, and long prompts, where arithmetic
 * is what takes time. Pure.
 */
export function fitDevice(shape: ModelShape, decode: MeasuredLoad, prefill: MeasuredLoad): DeviceModel {
  const rows = (load: MeasuredLoad) => load.tokens * shape.moeLayers * shape.topK;
  const densePerTokenSeconds = prefill.attention / (prefill.tokens * shape.moeLayers);
  const perLayer = decode.attention / (decode.steps * shape.moeLayers);
  return {
    flopsPerRow: shape.flopsPerRow,
    flopsPerSecond: (rows(prefill) * shape.flopsPerRow) / prefill.experts,
    memoryBytesPerSecond: (rows(decode) * shape.expertBytes) / decode.experts,
    densePerTokenSeconds,
    layerOverheadSeconds: Math.max(0, perLayer - densePerTokenSeconds),
  };
}
