/**
 * The data-plane frame: a 64-byte header, then sections in this order, each padded to 8 bytes. Little endian. TypeScript reads the header and the
 * tables; rows are opaque bytes that only kernels read.
 *
 * header
 *   0  u32 magic 0x53595746 "FWYS"      4  u16 protocol version          6  u8 kind            7  u8 row dtype (0 f32, 1 bf16, 2 int8, 3 fp8)
 *   8  u32 epoch (plan)                 12 u32 step of the home (wraps)  16 u16 MoE layer index 18 u16 source worker
 *   20 u32 rows                         24 u32 pairs                     28 u32 hidden
 *   32 u32 payload bytes after the header                                 36 u32 crc32 of the header's other bytes (0..35, 40..63) and
 *      the tables or the error message (not the rows: kernels check those, and every transport has its own checksums)
 *   40 u8 numeric class id  41 u8 scope (dispatch: 0 this worker alone, 1 its node)  42 u8[2] zero  44 u32 error code index (kind error) 48 u64 request tag below 2^53 (same tag = same work)
 *   56 u64 zero
 *
 * kind 1 dispatch: pairRow u16[pairs] | pairExpert u16[pairs] | pairWeight f32[pairs] | rows (rowsEncode). pairRow indexes the frame's own rows.
 *   Scope 1: whoever receives it sees to it that the node's workers compute the pairs, and answers with the node's sums. Scope 0 is never passed on.
 * kind 2 combine:  rows (sumEncode): one exact sum per row of the dispatch frame, in its row order. epoch, step, layer, tag echo the dispatch.
 * kind 3 error:    UTF-8 message; code index into the catalogue order. Answers the dispatch that it names.
 *
 * A worker refuses a frame of an epoch it does not serve (error `bad_plan`), of another numeric class, hidden size or version (`version_mismatch`).
 */
export const FRAME_MAGIC = 0x53595746;
export const FRAME_HEADER_BYTES = 64;
export const PROTOCOL_VERSION = 1;
export const FrameKind = { dispatch: 1, combine: 2, error: 3 } as const;
export const RowDType = { f32: 0, bf16: 1, int8: 2, fp8: 3 } as const;
export const FrameScope = { worker: 0, node: 1 } as const;
export type FrameScope = keyof typeof FrameScope;
export type RowDType = keyof typeof RowDType;

/** Columns of a row that share a scale in fp8. */
const fp8Group = 128;

/** Bytes of one row of `hidden` values: int8 carries an f32 scale, fp8 one per 128 columns. */
export function rowBytes(dtype: RowDType, hidden: number): number {
  if (dtype === 'f32') return 4 * hidden;
  if (dtype === 'bf16') return 2 * hidden;
  return hidden + 4 * (dtype === 'int8' ? 1 : Math.ceil(hidden / fp8Group));
}
export type FrameKind = (typeof FrameKind)[keyof typeof FrameKind];
