import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import protobuf from 'protobufjs';
import { describe, expect, it } from 'vitest';
import { GOODBYE, writePrefix } from '../src/frame-reader.ts';
import {
  dispatchFrameBytes,
  encodeCombineHeader,
  encodeDispatchHeader,
  encodeErrorFrame,
  errorCatalogue,
  FRAME_HEADER_BYTES,
  type FrameHeader,
  frameMemory,
  PROTOCOL_VERSION,
  SwitchyardError,
  sealFrame,
} from '../src/index.ts';
import { refusalFrame } from '../src/link-handshake.ts';

/** Every version of the wire. A released line never changes: to change the wire, raise PROTOCOL_VERSION, add a line here and one to the diary in docs/wire.md. */
const wire: Record<number, string> = {
  1: '9071974e8baeaec2',
};

const header: FrameHeader = {
  epoch: 0x01020304,
  step: 0x05060708,
  layer: 0x090a,
  source: 0x0b,
  rows: 2,
  hidden: 3,
  numericClass: 0xc,
  tag: 0x0d0e0f1011121,
};

function dispatchSample(): Uint8Array {
  const shape = { ...header, dtype: 'bf16' as const, scope: 'worker' as const, pairs: 3 };
  const frame = frameMemory(dispatchFrameBytes(shape));
  const tables = encodeDispatchHeader(frame, shape);
  tables.pairRow.set([0, 1, 1]);
  tables.pairExpert.set([7, 300, 4095]);
  tables.pairWeight.set([0.5, -1, 0.25]);
  for (let i = 0; i < tables.rowsBytes; i++) frame[tables.rowsOffset + i] = i;
  sealFrame(frame);
  return frame;
}

function combineSample(): Uint8Array {
  return encodeCombineHeader(frameMemory(FRAME_HEADER_BYTES + 24).fill(0x5a), header, 24);
}

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');

describe('the wire', () => {
  it('is what its version says', () => {
    const proto = protobuf
      .parse(readFileSync(new URL('../protos/control.proto', import.meta.url), 'utf8'), { keepCase: true })
      .root.toJSON();
    const everything = {
      proto,
      frames: [dispatchSample(), combineSample(), encodeErrorFrame(header, 'bad_plan', 'no')].map(hex),
      framing: [writePrefix(5), writePrefix(GOODBYE), refusalFrame(new SwitchyardError('unauthorized', 'no'))].map(hex),
      codes: Object.keys(errorCatalogue),
    };
    const hash = createHash('sha256').update(JSON.stringify(everything)).digest('hex').slice(0, 16);
    expect(hash, 'the wire changed: raise PROTOCOL_VERSION and write both diaries, here and in docs/wire.md').toBe(wire[PROTOCOL_VERSION]);
  });

  it('has a line in the diary for every version', () => {
    const diary = readFileSync(new URL('../../docs/wire.md', import.meta.url), 'utf8');
    const versions = [...diary.matchAll(/^\| (\d+) \| [\d.]+ \| .+ \|$/gm)].map((row) => Number(row[1]));
    expect(versions).toEqual(Object.keys(wire).map(Number));
    expect(Math.max(...versions)).toBe(PROTOCOL_VERSION);
  });

  it('lays a dispatch frame out as docs/wire.md says', () => {
    const frame = dispatchSample();
    expect(hex(frame.subarray(0, 36))).toBe('4657595301000101040302010807060' + '50a090b0002000000030000000300000030000000');
    expect(hex(frame.subarray(40, 64))).toBe('0c00000000000000211101f1e0d000000000000000000000');
    expect(hex(frame.subarray(64))).toBe(
      '0000010001000000' + '07002c01ff0f0000' + '0000003f000080bf0000803e00000000' + '000102030405060708090a0b00000000',
    );
  });
});
