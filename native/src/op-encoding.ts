import type { NativeObject, Op } from './contract.ts';
import { NativeError } from './native-error.ts';

/** The layout of `sy_op`: kind, flags, 6 objects, 10 ints, 6 floats, 4 bytes each. */
const opBytes = 96;
const objectSlots = 6;
const intSlots = 10;
const floatSlots = 6;
const none = 0xffffffff;

/** Ops as bytes, and the objects that their numbers mean: each object once, in the order of first use. */
export function encodeOps(ops: readonly Op[]): { bytes: Uint8Array; objects: NativeObject[] } {
  const bytes = new Uint8Array(ops.length * opBytes);
  const view = new DataView(bytes.buffer);
  const numbers = new Map<NativeObject, number>();
  ops.forEach((op, index) => {
    if (op.objects.length > objectSlots || op.ints.length > intSlots || op.floats.length > floatSlots)
      throw new NativeError('invalid_argument', `op ${index}: more than ${objectSlots} objects, ${intSlots} ints or ${floatSlots} floats`);
    const at = index * opBytes;
    view.setUint32(at, op.kind, true);
    view.setUint32(at + 4, op.flags, true);
    for (let slot = 0; slot < objectSlots; slot++) {
      const object = slot < op.objects.length ? op.objects[slot] : null;
      if (object === undefined) throw new NativeError('invalid_argument', `op ${index}: object ${slot} is undefined: absent is null`);
      if (object !== null && !numbers.has(object)) numbers.set(object, numbers.size);
      view.setUint32(at + 8 + slot * 4, object === null ? none : numbers.get(object)!, true);
    }
    op.ints.forEach((value, slot) => {
      if (value !== (value | 0)) throw new NativeError('invalid_argument', `op ${index}: int ${slot} = ${value} is not a 32-bit integer`);
      view.setInt32(at + 8 + (objectSlots + slot) * 4, value, true);
    });
    op.floats.forEach((value, slot) => {
      if (typeof value !== 'number') throw new NativeError('invalid_argument', `op ${index}: float ${slot} = ${value} is not a number`);
      view.setFloat32(at + 8 + (objectSlots + intSlots + slot) * 4, value, true);
    });
  });
  return { bytes, objects: [...numbers.keys()] };
}
