/**
 * Protobuf (proto3) encoding driven by a schema that is data. Wire format: https://protobuf.dev/programming-guides/encoding/. Bytes are read and written by
 * protobufjs; this file adds the objects: plain, every field present, u64 as a number (or a bigint where all 64 bits are used).
 */
import { Reader, Writer } from 'protobufjs/minimal.js';
import { SwitchyardError } from './errors.ts';
import { limits } from './limits.ts';

/** 'uint64' is a JS number up to 2^53 - 1; 'u64' is a bigint; both are uint64 on the wire. '[]': repeated, packed where proto3 packs. */
type Scalar = 'uint32' | 'uint64' | 'u64' | 'bool' | 'double' | 'string' | 'bytes';
type Repeated = 'uint32[]' | 'uint64[]' | 'bool[]' | 'float[]' | 'double[]' | 'string[]';
export type FieldKind = Scalar | Repeated | MessageSchema | readonly [MessageSchema];

export interface MessageSchema {
  readonly name: string;
  readonly fields: readonly { readonly name: string; readonly number: number; readonly kind: FieldKind }[];
  readonly writers: readonly ((writer: Writer, message: Fields) => void)[];
  /** Index: field number. */
  readonly readers: readonly (FieldReader | undefined)[];
  readonly empty: () => Fields;
}

/** A oneof: each member's key is the `type` of the message. */
export interface UnionSchema<T extends { type: string }> {
  readonly name: string;
  readonly members: { readonly [K in T['type']]: readonly [number, MessageSchema] };
}

type Fields = Record<string, unknown>;
interface FieldReader {
  readonly wireType: number;
  /** A packed field may also arrive unpacked, one element per tag (wire type of the element). */
  readonly elementWireType: number;
  readonly read: (reader: Reader, message: Fields, packed: boolean) => void;
}

/** What a field of type T may be on the wire, so that schema and TypeScript types cannot disagree in kind. */
type KindOf<T> = T extends string
  ? 'string'
  : T extends boolean
    ? 'bool'
    : T extends bigint
      ? 'u64'
      : T extends number
        ? 'uint32' | 'uint64' | 'double'
        : T extends Uint8Array
          ? 'bytes'
          : T extends string[]
            ? 'string[]'
            : T extends boolean[]
              ? 'bool[]'
              : T extends object[]
                ? readonly [MessageSchema]
                : T extends ArrayLike<number>
                  ? 'uint32[]' | 'uint64[]' | 'float[]' | 'double[]'
                  : MessageSchema;

export function message<T extends object>(
  name: string,
  shape: { readonly [K in keyof T]: readonly [number, KindOf<T[K]>] },
): MessageSchema {
  const fields = Object.entries<readonly [number, FieldKind]>(shape as Record<string, readonly [number, FieldKind]>).map(
    ([fieldName, [number, kind]]) => ({ name: fieldName, number, kind }),
  );
  const readers: (FieldReader | undefined)[] = [];
  for (const f of fields) readers[f.number] = fieldReader(f.name, f.kind);
  const defaults = fields.map((f) => [f.name, defaultOf(f.kind)] as const);
  return {
    name,
    fields,
    writers: fields.map((f) => fieldWriter(`${name}.${f.name}`, f.name, f.number, f.kind)),
    readers,
    empty: () => {
      const made: Fields = {};
      for (const [key, make] of defaults) made[key] = make();
      return made;
    },
  };
}

/** @throws SwitchyardError `internal` naming a field whose value does not fit the wire. */
export function encodeUnion<T extends { type: string }>(schema: UnionSchema<T>, value: T): Buffer {
  const member = schema.members[value.type as T['type']];
  const writer = Writer.create();
  writer.uint32((member[0] << 3) | WIRE_BYTES).fork();
  writeFields(writer, member[1], value as Fields);
  return writer.ldelim().finish() as Buffer;
}

/** @throws SwitchyardError `bad_frame` for bytes that are not this message. Unknown fields are skipped, as protobuf asks; an unknown or absent member is refused. */
export function decodeUnion<T extends { type: string }>(schema: UnionSchema<T>, bytes: Uint8Array): T {
  nested = 0;
  try {
    return readUnion(schema, Reader.create(bytes));
  } catch (cause) {
    if (cause instanceof SwitchyardError) throw cause;
    throw new SwitchyardError('bad_frame', `${schema.name}: ${bytes.length} bytes do not parse: ${(cause as Error).message}`, { cause });
  }
}

const WIRE_VARINT = 0;
const WIRE_64 = 1;
const WIRE_BYTES = 2;
const WIRE_32 = 5;
const TWO_32 = 4_294_967_296;

function readUnion<T extends { type: string }>(schema: UnionSchema<T>, reader: Reader): T {
  let found: Fields | null = null;
  while (reader.pos < reader.len) {
    const tag = reader.uint32();
    const entry = (tag & 7) === WIRE_BYTES ? memberOf(schema, tag >>> 3) : null;
    if (entry === null) reader.skipType(tag & 7, 0, tag >>> 3);
    else {
      found = readMessage(reader, entry.schema, reader.uint32());
      found.type = entry.type;
    }
  }
  if (found === null) throw new SwitchyardError('bad_frame', `${schema.name}: no known message in ${reader.len} bytes`);
  return found as T;
}

function memberOf<T extends { type: string }>(schema: UnionSchema<T>, number: number): { type: string; schema: MessageSchema } | null {
  for (const type in schema.members) {
    const member = schema.members[type as T['type']];
    if (member[0] === number) return { type, schema: member[1] };
  }
  return null;
}

function readMessage(reader: Reader, schema: MessageSchema, length: number): Fields {
  const outer = reader.len;
  const end = reader.pos + length;
  if (end > outer) throw new RangeError(`${schema.name}: ${length} bytes announced, ${outer - reader.pos} left`);
  reader.len = end; // No read of this message can leave it.
  countNested(schema);
  const found = schema.empty();
  while (reader.pos < end) {
    const tag = reader.uint32();
    const wireType = tag & 7;
    const field = schema.readers[tag >>> 3];
    if (field !== undefined && (wireType === field.wireType || wireType === field.elementWireType))
      field.read(reader, found, wireType === WIRE_BYTES);
    else reader.skipType(wireType, 0, tag >>> 3);
  }
  reader.len = outer;
  return found;
}

/** Messages inside the one that is being decoded, it included: nothing else makes so much memory of so few bytes. */
let nested = 0;

function countNested({ name }: MessageSchema): void {
  const most = limits.nestedMessagesMax;
  // The outermost is none of them.
  if (nested++ > most) throw new SwitchyardError('bad_frame', `${name}: one message holds too many others; the limit is ${most}`);
}

function writeFields(writer: Writer, schema: MessageSchema, value: Fields): void {
  for (const write of schema.writers) write(writer, value);
}

function fieldWriter(path: string, key: string, number: number, kind: FieldKind): (writer: Writer, message: Fields) => void {
  const tag = (wireType: number) => ((number << 3) | wireType) >>> 0;
  if (typeof kind === 'object') {
    const bytesTag = tag(WIRE_BYTES);
    if (!Array.isArray(kind)) {
      const schema = kind as MessageSchema;
      return (writer, m) => {
        writer.uint32(bytesTag).fork();
        writeFields(writer, schema, m[key] as Fields);
        writer.ldelim();
      };
    }
    const [schema] = kind as readonly [MessageSchema];
    return (writer, m) => {
      for (const item of m[key] as Fields[]) {
        writer.uint32(bytesTag).fork();
        writeFields(writer, schema, item);
        writer.ldelim();
      }
    };
  }
  switch (kind as Scalar | Repeated) {
    case 'uint32':
      return (writer, m) => {
        const v = checkUint32(path, m[key] as number);
        if (v !== 0) writer.uint32(tag(WIRE_VARINT)).uint32(v);
      };
    case 'uint64':
      return (writer, m) => {
        const v = checkSafe(path, m[key] as number);
        if (v !== 0) writeSafe(writer.uint32(tag(WIRE_VARINT)), v);
      };
    case 'u64':
      return (writer, m) => {
        const v = BigInt.asUintN(64, m[key] as bigint);
        if (v !== m[key]) throw new SwitchyardError('internal', `${path} is ${m[key]}: not a 64-bit unsigned integer`, { param: path });
        if (v !== 0n)
          writer.uint32(tag(WIRE_VARINT)).uint64({ low: Number(v & 0xffffffffn) | 0, high: Number(v >> 32n) | 0, unsigned: true } as never);
      };
    case 'bool':
      return (writer, m) => {
        if (m[key] as boolean) writer.uint32(tag(WIRE_VARINT)).bool(true);
      };
    case 'double':
      return (writer, m) => {
        const v = m[key] as number;
        if (v !== 0 || Object.is(v, -0)) writer.uint32(tag(WIRE_64)).double(v);
      };
    case 'string':
      return (writer, m) => {
        const v = wellFormed(m[key] as string);
        if (v !== '') writer.uint32(tag(WIRE_BYTES)).string(v);
      };
    case 'bytes':
      return (writer, m) => {
        const v = m[key] as Uint8Array;
        if (v.length > 0) writer.uint32(tag(WIRE_BYTES)).bytes(v);
      };
    case 'string[]':
      return (writer, m) => {
        for (const v of m[key] as string[]) writer.uint32(tag(WIRE_BYTES)).string(wellFormed(v));
      };
    case 'uint32[]':
      return packedWriter(key, tag(WIRE_BYTES), (writer, v: number) => writer.uint32(checkUint32(path, v)));
    case 'uint64[]':
      return packedWriter(key, tag(WIRE_BYTES), (writer, v: number) => writeSafe(writer, checkSafe(path, v)));
    case 'bool[]':
      return packedWriter(key, tag(WIRE_BYTES), (writer, v: boolean) => writer.bool(v));
    case 'float[]':
      return packedWriter(key, tag(WIRE_BYTES), (writer, v: number) => writer.float(v));
    case 'double[]':
      return packedWriter(key, tag(WIRE_BYTES), (writer, v: number) => writer.double(v));
  }
}

/** Half of a surrogate pair, which JSON may bring and a cut may leave, is no text: a reader would refuse the message, and with it the stream. */
function wellFormed(text: string): string {
  return (text as string & { toWellFormed(): string }).toWellFormed();
}

function packedWriter<V>(key: string, tag: number, write: (writer: Writer, value: V) => void): (writer: Writer, message: Fields) => void {
  return (writer, m) => {
    const column = m[key] as ArrayLike<V>;
    if (column.length === 0) return;
    writer.uint32(tag).fork();
    for (let i = 0; i < column.length; i++) write(writer, column[i]);
    writer.ldelim();
  };
}

function fieldReader(key: string, kind: FieldKind): FieldReader {
  const bytes = (read: (reader: Reader, message: Fields) => void): FieldReader => ({
    wireType: WIRE_BYTES,
    elementWireType: WIRE_BYTES,
    read,
  });
  if (typeof kind === 'object') {
    if (!Array.isArray(kind)) {
      const schema = kind as MessageSchema;
      return bytes((reader, m) => {
        m[key] = readMessage(reader, schema, reader.uint32());
      });
    }
    const [schema] = kind as readonly [MessageSchema];
    return bytes((reader, m) => {
      (m[key] as Fields[]).push(readMessage(reader, schema, reader.uint32()));
    });
  }
  const single = (wireType: number, read: (reader: Reader) => unknown): FieldReader => ({
    wireType,
    elementWireType: wireType,
    read: (reader, m) => {
      m[key] = read(reader);
    },
  });
  switch (kind as Scalar | Repeated) {
    case 'uint32':
      return single(WIRE_VARINT, (reader) => reader.uint32());
    case 'uint64':
      return single(WIRE_VARINT, readSafe);
    case 'u64':
      return single(WIRE_VARINT, readBig);
    case 'bool':
      return single(WIRE_VARINT, (reader) => reader.bool());
    case 'double':
      return single(WIRE_64, (reader) => reader.double());
    case 'string':
      return single(WIRE_BYTES, (reader) => reader.stringVerify());
    case 'bytes':
      return single(WIRE_BYTES, (reader) => reader.bytes());
    case 'string[]':
      return bytes((reader, m) => {
        (m[key] as string[]).push(reader.stringVerify());
      });
    case 'uint32[]':
      return packedReader(key, WIRE_VARINT, (reader) => reader.uint32());
    case 'uint64[]':
      return packedReader(key, WIRE_VARINT, readSafe);
    case 'bool[]':
      return packedReader(key, WIRE_VARINT, (reader) => reader.bool());
    case 'float[]':
      return packedReader(key, WIRE_32, (reader) => reader.float());
    case 'double[]':
      return packedReader(key, WIRE_64, (reader) => reader.double());
  }
}

function packedReader<V>(key: string, elementWireType: number, read: (reader: Reader) => V): FieldReader {
  return {
    wireType: WIRE_BYTES,
    elementWireType,
    read: (reader, m, packed) => {
      const column = m[key] as V[];
      if (!packed) {
        column.push(read(reader));
        return;
      }
      const length = reader.uint32();
      const end = reader.pos + length;
      if (end > reader.len) throw new RangeError(`${key}: ${length} bytes announced, ${reader.len - reader.pos} left`);
      while (reader.pos < end) column.push(read(reader));
      if (reader.pos !== end) throw new RangeError(`${key}: the last element ends outside its ${length} bytes`);
    },
  };
}

function defaultOf(kind: FieldKind): () => unknown {
  if (typeof kind === 'object') return Array.isArray(kind) ? () => [] : (kind as MessageSchema).empty;
  if (kind.endsWith('[]')) return () => [];
  const value = kind === 'string' ? '' : kind === 'bool' ? false : kind === 'u64' ? 0n : kind === 'bytes' ? new Uint8Array(0) : 0;
  return () => value;
}

/** Halves of the varint that `readHalves` read last; two numbers, because a step's worth of request ids should not allocate. */
let low = 0;
let high = 0;

function readHalves(reader: Reader): void {
  low = 0;
  high = 0;
  for (let i = 0; i < 10; i++) {
    if (reader.pos >= reader.len) throw new RangeError('a varint is cut off');
    const byte = reader.buf[reader.pos++];
    const bits = byte & 127;
    if (i < 5) low |= bits << (7 * i);
    if (i === 4) high = bits >>> 4;
    if (i > 4) high |= bits << (7 * i - 32);
    if (byte < 128) return;
  }
  throw new RangeError('a varint is longer than 10 bytes');
}

function readSafe(reader: Reader): number {
  readHalves(reader);
  const value = (high >>> 0) * TWO_32 + (low >>> 0);
  if (!Number.isSafeInteger(value)) throw new RangeError(`${value} is above 2^53 - 1`);
  return value;
}

function readBig(reader: Reader): bigint {
  readHalves(reader);
  return (BigInt(high >>> 0) << 32n) | BigInt(low >>> 0);
}

function writeSafe(writer: Writer, value: number): void {
  if (value < TWO_32) writer.uint32(value);
  else writer.uint64(value);
}

function checkUint32(path: string, value: number): number {
  if (value >>> 0 !== value) throw new SwitchyardError('internal', `${path} is ${value}: not a 32-bit unsigned integer`, { param: path });
  return value;
}

function checkSafe(path: string, value: number): number {
  if (!Number.isSafeInteger(value) || value < 0)
    throw new SwitchyardError('internal', `${path} is ${value}: not an unsigned integer below 2^53`, { param: path });
  return value;
}
