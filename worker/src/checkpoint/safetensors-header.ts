import { limits } from '@switchyard/proto';
import { badCheckpoint, quoted, shown } from './bad-checkpoint.ts';
import { readExactly, withRegularFile } from './regular-file.ts';

/** Bytes of one element. Sub-byte types have no place in a published MoE checkpoint (MXFP4 is stored as U8) and are refused by name. */
const elementBytes = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
  F8_E8M0: 1,
  I16: 2,
  U16: 2,
  F16: 2,
  BF16: 2,
  I32: 4,
  U32: 4,
  F32: 4,
  I64: 8,
  U64: 8,
  F64: 8,
} as const;

export type StoredDType = keyof typeof elementBytes;

export interface TensorInfo {
  readonly name: string;
  readonly dtype: StoredDType;
  readonly shape: readonly number[];
  /** Path of the file that holds it. */
  readonly file: string;
  /** First byte, counted from the beginning of the file. */
  readonly offset: number;
  readonly bytes: number;
}

/** A tensor has a handful of dimensions; a header that claims more is not one. */
const dimensionsMax = 8;
const lengthFieldBytes = 8;

export function storedElementBytes(dtype: StoredDType): number {
  return elementBytes[dtype];
}

/**
 * Reads and checks the header of one safetensors file (https://github.com/huggingface/safetensors, "Format"): length u64 LE, JSON, data.
 * Throws `bad_checkpoint` naming file, tensor and offset for anything that is not exactly that.
 */
export function readSafetensorsHeader(path: string): Map<string, TensorInfo> {
  return withRegularFile(path, (file, fileBytes) => {
    const headerBytes = headerLength(readExactly(file, 0, Math.min(lengthFieldBytes, fileBytes)), fileBytes, path);
    return parseSafetensorsHeader(readExactly(file, lengthFieldBytes, headerBytes), fileBytes, path);
  });
}

export function headerLength(field: Uint8Array, fileBytes: number, path: string): number {
  if (field.length < lengthFieldBytes)
    throw badCheckpoint(path, `truncated at offset 0: ${fileBytes} bytes, a header needs ${lengthFieldBytes}`);
  const length = new DataView(field.buffer, field.byteOffset, lengthFieldBytes).getBigUint64(0, true);
  if (length > BigInt(limits.safetensorsHeaderBytesMax))
    throw badCheckpoint(path, `header at offset 0 claims ${length} bytes, the limit is ${limits.safetensorsHeaderBytesMax}`);
  const headerBytes = Number(length);
  if (headerBytes < 2) throw badCheckpoint(path, `header at offset 0 claims ${headerBytes} bytes, the smallest is 2`);
  if (lengthFieldBytes + headerBytes > fileBytes)
    throw badCheckpoint(
      path,
      `truncated: header at offset ${lengthFieldBytes} needs ${headerBytes} bytes, the file has ${fileBytes} in all`,
    );
  return headerBytes;
}

/**
 * Tensors of a header. The data must be covered by tensors exactly, without gaps or overlap, which also rules out a name given twice and a
 * truncated or extended file.
 */
export function parseSafetensorsHeader(json: Uint8Array, fileBytes: number, path: string): Map<string, TensorInfo> {
  const dataStart = lengthFieldBytes + json.length;
  const tensors = new Map<string, TensorInfo>();
  for (const [name, entry] of Object.entries(headerObject(json, path))) {
    if (name === '__metadata__') continue;
    tensors.set(name, tensorOf(name, entry, dataStart, fileBytes, path));
  }
  requireExactCover([...tensors.values()], dataStart, fileBytes, path);
  return tensors;
}

function headerObject(json: Uint8Array, path: string): Record<string, unknown> {
  let parsed: unknown;
  try {
    parsed = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(json));
  } catch (cause) {
    throw badCheckpoint(path, `header at offset ${lengthFieldBytes} is not JSON`, null, cause);
  }
  if (!isObject(parsed)) throw badCheckpoint(path, `header at offset ${lengthFieldBytes} is not a JSON object`);
  return parsed;
}

function tensorOf(name: string, entry: unknown, dataStart: number, fileBytes: number, path: string): TensorInfo {
  const refuse = (problem: string) => badCheckpoint(path, `tensor ${quoted(name)}: ${problem}`, name);
  if (!isObject(entry)) throw refuse('its header entry is not an object');

  const { dtype, shape, data_offsets: range } = entry;
  if (typeof dtype !== 'string' || !Object.hasOwn(elementBytes, dtype))
    throw refuse(`dtype ${shown(dtype)} is not one of ${Object.keys(elementBytes).join(', ')}`);
  if (!Array.isArray(shape) || shape.length > dimensionsMax || !shape.every(isCount))
    throw refuse(`shape ${shown(shape)} is not a list of at most ${dimensionsMax} sizes`);
  if (!Array.isArray(range) || range.length !== 2 || !range.every(isCount) || range[0] > range[1])
    throw refuse(`data_offsets ${shown(range)} is not [begin, end]`);

  const offset = dataStart + range[0];
  const bytes = range[1] - range[0];
  const expected = (shape as number[]).reduce((product, size) => product * size, elementBytes[dtype as StoredDType]);
  if (!Number.isSafeInteger(expected) || expected !== bytes)
    throw refuse(`at offset ${offset}: shape [${shape}] of ${dtype} is ${expected} bytes, data_offsets give ${bytes}`);
  if (offset + bytes > fileBytes) throw refuse(`at offset ${offset}: ends at byte ${offset + bytes} of a file of ${fileBytes}`);
  return { name, dtype: dtype as StoredDType, shape: shape as number[], file: path, offset, bytes };
}

function requireExactCover(tensors: TensorInfo[], dataStart: number, fileBytes: number, path: string): void {
  tensors.sort((a, b) => a.offset - b.offset || a.bytes - b.bytes);
  let end = dataStart;
  for (const tensor of tensors) {
    if (tensor.offset !== end)
      throw badCheckpoint(
        path,
        `tensor ${quoted(tensor.name)}: at offset ${tensor.offset}: ${tensor.offset < end ? 'overlaps the tensor before it' : 'leaves a gap after the tensor before it'}, which ends at ${end}`,
        tensor.name,
      );
    end += tensor.bytes;
  }
  if (end !== fileBytes) throw badCheckpoint(path, `tensors end at offset ${end}, the file has ${fileBytes} bytes`);
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
