/**
 * Reading and writing data-plane frames; `frame.ts` has the layout. Nothing is copied: rows and tables are written and read where they lie.
 *
 *   const frame = frameMemory(dispatchFrameBytes(shape));
 *   const tables = encodeDispatchHeader(frame, header);   // fill tables.pairRow, pairExpert, pairWeight
 *   native.rowsEncode(x, rows, row, dtype, frame, tables.rowsOffset);
 *   sealFrame(frame);                                     // checksum of header and tables
 *   link.send(frame);
 */
import { crc32 } from 'node:zlib';
import { type ErrorCode, errorCatalogue, SwitchyardError } from './errors.ts';
import { FRAME_HEADER_BYTES, FRAME_MAGIC, FrameKind, FrameScope, PROTOCOL_VERSION, RowDType, rowBytes } from './frame.ts';
import { frameMemory } from './frame-memory.ts';
import { limits } from './limits.ts';

/** What every frame says about the work it belongs to. Answers echo epoch, step, layer, rows, hidden, numericClass and tag. */
export interface FrameHeader {
  epoch: number;
  step: number;
  layer: number;
  /** Worker that made this frame. */
  source: number;
  rows: number;
  hidden: number;
  numericClass: number;
  /** Same tag = same work. */
  tag: number;
}

export interface DispatchHeader extends FrameHeader {
  dtype: RowDType;
  scope: FrameScope;
  pairs: number;
}

/** (pairs) views of the frame itself. Rows lie at `rowsOffset`, (rows, hidden) of dtype, `rowsBytes` long without padding. */
export interface DispatchTables {
  pairRow: Uint16Array;
  pairExpert: Uint16Array;
  pairWeight: Float32Array;
  rowsOffset: number;
  rowsBytes: number;
}

export interface DispatchFrame extends DispatchHeader, DispatchTables {
  kind: 'dispatch';
  bytes: Uint8Array;
}

/** Encoded exact sums at `sumOffset`, `sumBytes` long, one per row of the dispatch frame; only the kernel can tell whether they parse. */
export interface CombineFrame extends FrameHeader {
  kind: 'combine';
  bytes: Uint8Array;
  sumOffset: number;
  sumBytes: number;
}

export interface ErrorFrame extends FrameHeader {
  kind: 'error';
  code: ErrorCode;
  message: string;
}

export type Frame = DispatchFrame | CombineFrame | ErrorFrame;

export function dispatchFrameBytes(shape: { rows: number; pairs: number; hidden: number; dtype: RowDType }): number {
  return FRAME_HEADER_BYTES + dispatchLayout(shape.rows, shape.pairs, shape.hidden, shape.dtype).end;
}

/**
 * Writes header and clears paddings; the caller fills tables and rows, then calls `sealFrame`.
 * @param frame exactly `dispatchFrameBytes` long, 8-byte aligned
 * @throws SwitchyardError `bad_frame` naming a field outside its limit, `internal` for a frame of another length or alignment
 */
export function encodeDispatchHeader(frame: Uint8Array, header: DispatchHeader): DispatchTables {
  checkCounts(header.rows, header.hidden);
  checkRange('pairs', header.pairs, 1, header.rows * limits.topKMax);
  const layout = dispatchLayout(header.rows, header.pairs, header.hidden, header.dtype);
  if (frame.length !== FRAME_HEADER_BYTES + layout.end || frame.byteOffset % 8 !== 0)
    throw new SwitchyardError(
      'internal',
      `a dispatch frame of ${FRAME_HEADER_BYTES + layout.end} bytes, 8-byte aligned, is needed; got ${frame.length} at offset ${frame.byteOffset}`,
    );
  const view = viewOf(frame);
  writeHeader(view, FrameKind.dispatch, RowDType[header.dtype], header, header.pairs, layout.end, 0);
  view.setUint8(HEADER.scope, FrameScope[header.scope]);
  const at = FRAME_HEADER_BYTES;
  frame.fill(0, at + layout.pairRow + 2 * header.pairs, at + layout.pairExpert);
  frame.fill(0, at + layout.pairExpert + 2 * header.pairs, at + layout.pairWeight);
  frame.fill(0, at + layout.pairWeight + 4 * header.pairs, at + layout.rows);
  frame.fill(0, at + layout.rows + layout.rowsBytes);
  return tablesOf(frame, header.pairs, layout);
}

/** Writes the checksum of a dispatch frame whose tables are complete. Rows may be written before or after. */
export function sealFrame(frame: Uint8Array): void {
  const view = viewOf(frame);
  const { rows } = dispatchLayout(
    view.getUint32(HEADER.rows, true),
    view.getUint32(HEADER.pairs, true),
    view.getUint32(HEADER.hidden, true),
    rowDTypes[view.getUint8(HEADER.dtype)],
  );
  view.setUint32(HEADER.crc, checksum(frame, FRAME_HEADER_BYTES + rows), true);
}

/**
 * Finishes a combine frame whose encoded sums already lie after the header.
 * @param frame holds at least FRAME_HEADER_BYTES + sumBytes
 * @param sumBytes what `native.sumEncode` wrote, a multiple of 8
 * @returns the part of `frame` to send
 */
export function encodeCombineHeader(frame: Uint8Array, header: FrameHeader, sumBytes: number): Uint8Array {
  checkCounts(header.rows, header.hidden);
  if (sumBytes % 8 !== 0 || FRAME_HEADER_BYTES + sumBytes > frame.length)
    throw new SwitchyardError('internal', `sums of ${sumBytes} bytes do not fit a frame of ${frame.length}, or are not a multiple of 8`);
  checkRange(
    'payload bytes',
    sumBytes,
    1,
    Math.min(combineBytesMax(header.rows, header.hidden), limits.frameBytesMax - FRAME_HEADER_BYTES),
  );
  const view = viewOf(frame);
  writeHeader(view, FrameKind.combine, 0, header, 0, sumBytes, 0);
  view.setUint32(HEADER.crc, checksum(frame, FRAME_HEADER_BYTES), true);
  return frame.subarray(0, FRAME_HEADER_BYTES + sumBytes);
}

/** The answer to a dispatch that failed. @param message cut to `limits.errorMessageBytesMax` bytes of whole characters */
export function encodeErrorFrame(header: FrameHeader, code: ErrorCode, message: string): Uint8Array {
  checkCounts(header.rows, header.hidden);
  const text = wholeCharacters(Buffer.from(message === '' ? code : message), limits.errorMessageBytesMax);
  const frame = frameMemory(FRAME_HEADER_BYTES + text.length);
  frame.set(text, FRAME_HEADER_BYTES);
  const view = viewOf(frame);
  writeHeader(view, FrameKind.error, 0, header, 0, text.length, codes.indexOf(code));
  view.setUint32(HEADER.crc, checksum(frame, frame.length), true);
  return frame;
}

/**
 * Checks everything but the rows and gives views into `bytes`. Views are copies only where `bytes` is not aligned for them; rows may lie at any alignment.
 * @throws SwitchyardError `bad_frame` naming the field, its value and its limit; `version_mismatch` for another protocol version
 */
export function parseFrame(bytes: Uint8Array): Frame {
  if (bytes.length < FRAME_HEADER_BYTES || bytes.length > limits.frameBytesMax)
    throw badField('length', bytes.length, `${FRAME_HEADER_BYTES}..${limits.frameBytesMax}`);
  const view = viewOf(bytes);
  const magic = view.getUint32(HEADER.magic, true);
  if (magic !== FRAME_MAGIC) throw badField('magic', `0x${magic.toString(16)}`, `0x${FRAME_MAGIC.toString(16)}`);
  const version = view.getUint16(HEADER.version, true);
  if (version !== PROTOCOL_VERSION)
    throw new SwitchyardError('version_mismatch', `frame version ${version} is not ${PROTOCOL_VERSION}`, { param: 'version' });
  const payloadBytes = view.getUint32(HEADER.payloadBytes, true);
  if (payloadBytes !== bytes.length - FRAME_HEADER_BYTES) throw badField('payload bytes', payloadBytes, bytes.length - FRAME_HEADER_BYTES);
  const header: FrameHeader = {
    epoch: view.getUint32(HEADER.epoch, true),
    step: view.getUint32(HEADER.step, true),
    layer: view.getUint16(HEADER.layer, true),
    source: view.getUint16(HEADER.source, true),
    rows: view.getUint32(HEADER.rows, true),
    hidden: view.getUint32(HEADER.hidden, true),
    numericClass: view.getUint8(HEADER.numericClass),
    tag: readTag(view),
  };
  checkCounts(header.rows, header.hidden);
  checkRange('source', header.source, 0, limits.workersMax - 1);
  if (view.getUint16(HEADER.scope + 1, true) !== 0) throw badField('reserved bytes 42..43', view.getUint16(HEADER.scope + 1, true), 0);
  if (view.getUint32(HEADER.zero, true) !== 0 || view.getUint32(HEADER.zero + 4, true) !== 0)
    throw badField('reserved bytes 56..63', 'not zero', 0);
  const kind = view.getUint8(HEADER.kind);
  if (kind === FrameKind.dispatch) return parseDispatch(bytes, view, header);
  if (kind === FrameKind.combine) return parseCombine(bytes, view, header);
  if (kind === FrameKind.error) return parseError(bytes, view, header);
  throw badField('kind', kind, '1..3');
}

/** Byte offsets in the header. */
const HEADER = {
  magic: 0,
  version: 4,
  kind: 6,
  dtype: 7,
  epoch: 8,
  step: 12,
  layer: 16,
  source: 18,
  rows: 20,
  pairs: 24,
  hidden: 28,
  payloadBytes: 32,
  crc: 36,
  numericClass: 40,
  scope: 41,
  errorCode: 44,
  tag: 48,
  zero: 56,
} as const;
/** By code. */
const rowDTypes = Object.keys(RowDType) as RowDType[];
const codes = Object.keys(errorCatalogue) as ErrorCode[];
const TWO_32 = 4_294_967_296;
const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** Offsets of the sections after the header. */
interface DispatchLayout {
  pairRow: number;
  pairExpert: number;
  pairWeight: number;
  rows: number;
  rowsBytes: number;
  end: number;
}

/** Exact for all values of the limits: the largest product is 2^12 * 2^16 * 4. */
function dispatchLayout(rows: number, pairs: number, hidden: number, dtype: RowDType): DispatchLayout {
  const pairExpert = padded(2 * pairs);
  const pairWeight = pairExpert + padded(2 * pairs);
  const rowsAt = pairWeight + padded(4 * pairs);
  const rowsBytes = rows * rowBytes(dtype, hidden);
  return { pairRow: 0, pairExpert, pairWeight, rows: rowsAt, rowsBytes, end: rowsAt + padded(rowsBytes) };
}

/** A width code per row, then rows of at most 8 bytes per value. */
function combineBytesMax(rows: number, hidden: number): number {
  return padded(rows) + rows * hidden * 8;
}

function padded(bytes: number): number {
  return Math.ceil(bytes / 8) * 8;
}

function tablesOf(frame: Uint8Array, pairs: number, layout: DispatchLayout): DispatchTables {
  const at = frame.byteOffset + FRAME_HEADER_BYTES;
  return {
    pairRow: new Uint16Array(frame.buffer, at + layout.pairRow, pairs),
    pairExpert: new Uint16Array(frame.buffer, at + layout.pairExpert, pairs),
    pairWeight: new Float32Array(frame.buffer, at + layout.pairWeight, pairs),
    rowsOffset: FRAME_HEADER_BYTES + layout.rows,
    rowsBytes: layout.rowsBytes,
  };
}

function writeHeader(
  view: DataView,
  kind: FrameKind,
  dtype: number,
  header: FrameHeader,
  pairs: number,
  payloadBytes: number,
  errorCode: number,
): void {
  checkRange('epoch', header.epoch, 0, TWO_32 - 1);
  checkRange('step', header.step, 0, TWO_32 - 1);
  checkRange('layer', header.layer, 0, 65_535);
  checkRange('source', header.source, 0, limits.workersMax - 1);
  checkRange('numeric class', header.numericClass, 0, 255);
  checkRange('tag', header.tag, 0, Number.MAX_SAFE_INTEGER);
  checkRange('frame bytes', FRAME_HEADER_BYTES + payloadBytes, FRAME_HEADER_BYTES + 1, limits.frameBytesMax);
  view.setUint32(HEADER.magic, FRAME_MAGIC, true);
  view.setUint16(HEADER.version, PROTOCOL_VERSION, true);
  view.setUint8(HEADER.kind, kind);
  view.setUint8(HEADER.dtype, dtype);
  view.setUint32(HEADER.epoch, header.epoch, true);
  view.setUint32(HEADER.step, header.step, true);
  view.setUint16(HEADER.layer, header.layer, true);
  view.setUint16(HEADER.source, header.source, true);
  view.setUint32(HEADER.rows, header.rows, true);
  view.setUint32(HEADER.pairs, pairs, true);
  view.setUint32(HEADER.hidden, header.hidden, true);
  view.setUint32(HEADER.payloadBytes, payloadBytes, true);
  view.setUint32(HEADER.crc, 0, true);
  view.setUint32(HEADER.numericClass, header.numericClass, true); // and scope and zero bytes after it
  view.setUint32(HEADER.errorCode, errorCode, true);
  view.setUint32(HEADER.tag, header.tag % TWO_32, true);
  view.setUint32(HEADER.tag + 4, Math.floor(header.tag / TWO_32), true);
  view.setUint32(HEADER.zero, 0, true);
  view.setUint32(HEADER.zero + 4, 0, true);
}

function parseDispatch(bytes: Uint8Array, view: DataView, header: FrameHeader): DispatchFrame {
  const dtypeCode = view.getUint8(HEADER.dtype);
  if (dtypeCode >= rowDTypes.length) throw badField('row dtype', dtypeCode, `0..${rowDTypes.length - 1}`);
  const dtype = rowDTypes[dtypeCode];
  const scopeCode = view.getUint8(HEADER.scope);
  checkRange('scope', scopeCode, 0, 1);
  const pairs = view.getUint32(HEADER.pairs, true);
  checkRange('pairs', pairs, 1, header.rows * limits.topKMax);
  checkNoErrorCode(view);
  const layout = dispatchLayout(header.rows, pairs, header.hidden, dtype);
  if (bytes.length !== FRAME_HEADER_BYTES + layout.end) throw badField('payload bytes', bytes.length - FRAME_HEADER_BYTES, layout.end);
  checkChecksum(bytes, view, FRAME_HEADER_BYTES + layout.rows);
  // Through gRPC a frame begins 5 bytes into its buffer; the tables are a few hundred bytes, the rows stay where they are.
  const aligned = bytes.byteOffset % 4 === 0;
  const tables = tablesOf(aligned ? bytes : new Uint8Array(bytes.subarray(0, FRAME_HEADER_BYTES + layout.rows)), pairs, layout);
  for (let p = 0; p < pairs; p++) {
    if (tables.pairRow[p] >= header.rows) throw badField(`pairRow[${p}]`, tables.pairRow[p], `0..${header.rows - 1}`);
    if (tables.pairExpert[p] >= limits.expertsMax) throw badField(`pairExpert[${p}]`, tables.pairExpert[p], `0..${limits.expertsMax - 1}`);
    if (!Number.isFinite(tables.pairWeight[p])) throw badField(`pairWeight[${p}]`, tables.pairWeight[p], 'finite');
  }
  return {
    kind: 'dispatch',
    bytes,
    epoch: header.epoch,
    step: header.step,
    layer: header.layer,
    source: header.source,
    rows: header.rows,
    hidden: header.hidden,
    numericClass: header.numericClass,
    tag: header.tag,
    dtype,
    scope: scopeCode === FrameScope.node ? 'node' : 'worker',
    pairs,
    pairRow: tables.pairRow,
    pairExpert: tables.pairExpert,
    pairWeight: tables.pairWeight,
    rowsOffset: tables.rowsOffset,
    rowsBytes: tables.rowsBytes,
  };
}

function parseCombine(bytes: Uint8Array, view: DataView, header: FrameHeader): CombineFrame {
  checkNoTables(view);
  checkNoErrorCode(view);
  const sumBytes = bytes.length - FRAME_HEADER_BYTES;
  const sumBytesMax = combineBytesMax(header.rows, header.hidden);
  if (sumBytes < 1 || sumBytes > sumBytesMax || sumBytes % 8 !== 0)
    throw badField('payload bytes', sumBytes, `a multiple of 8 in 8..${sumBytesMax}`);
  checkChecksum(bytes, view, FRAME_HEADER_BYTES);
  return { kind: 'combine', bytes, ...header, sumOffset: FRAME_HEADER_BYTES, sumBytes };
}

function parseError(bytes: Uint8Array, view: DataView, header: FrameHeader): ErrorFrame {
  checkNoTables(view);
  const messageBytes = bytes.length - FRAME_HEADER_BYTES;
  checkRange('payload bytes', messageBytes, 1, limits.errorMessageBytesMax);
  const code = view.getUint32(HEADER.errorCode, true);
  checkRange('error code', code, 0, codes.length - 1);
  checkChecksum(bytes, view, bytes.length);
  try {
    return { kind: 'error', ...header, code: codes[code], message: text.decode(bytes.subarray(FRAME_HEADER_BYTES)) };
  } catch {
    throw badField('message', `${messageBytes} bytes`, 'valid UTF-8');
  }
}

function checkNoTables(view: DataView): void {
  if (view.getUint32(HEADER.pairs, true) !== 0) throw badField('pairs', view.getUint32(HEADER.pairs, true), 0);
  if (view.getUint8(HEADER.dtype) !== 0) throw badField('row dtype', view.getUint8(HEADER.dtype), 0);
  if (view.getUint8(HEADER.scope) !== 0) throw badField('scope', view.getUint8(HEADER.scope), 0);
}

function checkNoErrorCode(view: DataView): void {
  if (view.getUint32(HEADER.errorCode, true) !== 0) throw badField('error code', view.getUint32(HEADER.errorCode, true), 0);
}

function checkCounts(rows: number, hidden: number): void {
  checkRange('rows', rows, 1, limits.frameRowsMax);
  checkRange('hidden', hidden, 1, limits.hiddenMax);
}

function checkRange(field: string, value: number, min: number, max: number): void {
  if (!Number.isInteger(value) || value < min || value > max) throw badField(field, value, `${min}..${max}`);
}

function badField(field: string, value: number | string, limit: number | string): SwitchyardError {
  return new SwitchyardError('bad_frame', `frame: ${field} is ${value}, must be ${limit}`, { param: field });
}

/** Of the header without its checksum field, then everything up to `end`. */
function checksum(frame: Uint8Array, end: number): number {
  return crc32(frame.subarray(HEADER.crc + 4, end), crc32(frame.subarray(0, HEADER.crc)));
}

function checkChecksum(frame: Uint8Array, view: DataView, end: number): void {
  const said = view.getUint32(HEADER.crc, true);
  const found = checksum(frame, end);
  if (said !== found) throw badField('crc32', `0x${said.toString(16)}`, `0x${found.toString(16)}`);
}

function readTag(view: DataView): number {
  const tag = view.getUint32(HEADER.tag, true) + view.getUint32(HEADER.tag + 4, true) * TWO_32;
  if (!Number.isSafeInteger(tag)) throw badField('tag', tag, `0..${Number.MAX_SAFE_INTEGER}`);
  return tag;
}

function viewOf(frame: Uint8Array): DataView {
  return new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
}

/** The longest prefix of at most `bytesMax` bytes that does not end inside a character. */
function wholeCharacters(utf8: Uint8Array, bytesMax: number): Uint8Array {
  if (utf8.length <= bytesMax) return utf8;
  let end = bytesMax;
  while ((utf8[end] & 0xc0) === 0x80) end--;
  return utf8.subarray(0, end);
}
