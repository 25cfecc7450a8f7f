import { crc32 } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  type DispatchHeader,
  dispatchFrameBytes,
  type ErrorCode,
  encodeCombineHeader,
  encodeDispatchHeader,
  encodeErrorFrame,
  errorCatalogue,
  FRAME_HEADER_BYTES,
  type FrameHeader,
  frameMemory,
  limits,
  parseFrame,
  SwitchyardError,
  sealFrame,
} from '../src/index.ts';

const sample: FrameHeader = { epoch: 3, step: 77, layer: 11, source: 2, rows: 6, hidden: 8, numericClass: 4, tag: 123_456_789_012 };

const frameHeader = fc.record<FrameHeader>({
  epoch: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
  step: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
  layer: fc.integer({ min: 0, max: 65_535 }),
  source: fc.integer({ min: 0, max: limits.workersMax - 1 }),
  rows: fc.integer({ min: 1, max: 12 }),
  hidden: fc.integer({ min: 1, max: 300 }),
  numericClass: fc.integer({ min: 0, max: 255 }),
  tag: fc.maxSafeNat(),
});

const dispatch = frameHeader.chain((header) =>
  fc.record({
    header: fc.record<DispatchHeader>({
      ...(Object.fromEntries(Object.entries(header).map(([k, v]) => [k, fc.constant(v)])) as {
        [K in keyof FrameHeader]: fc.Arbitrary<FrameHeader[K]>;
      }),
      dtype: fc.constantFrom('f32' as const, 'bf16' as const, 'int8' as const, 'fp8' as const),
      scope: fc.constantFrom('worker' as const, 'node' as const),
      pairs: fc.integer({ min: 1, max: header.rows * 4 }),
    }),
    seed: fc.nat(),
  }),
);

/** A whole frame with contents that follow from the seed. */
function makeDispatch({ header, seed }: { header: DispatchHeader; seed: number }): Uint8Array {
  const frame = frameMemory(dispatchFrameBytes(header));
  const tables = encodeDispatchHeader(frame, header);
  for (let p = 0; p < header.pairs; p++) {
    tables.pairRow[p] = (seed + p) % header.rows;
    tables.pairExpert[p] = (seed * 7 + p) % limits.expertsMax;
    tables.pairWeight[p] = (p + 1) / (seed + 1);
  }
  for (let i = 0; i < tables.rowsBytes; i++) frame[tables.rowsOffset + i] = seed + i;
  sealFrame(frame);
  return frame;
}

/** The same bytes, beginning `offset` bytes into their buffer, with a guard on both sides. */
function shifted(frame: Uint8Array, offset: number): Uint8Array {
  const memory = new Uint8Array(frame.length + offset + 16).fill(0xaa);
  memory.set(frame, offset);
  return memory.subarray(offset, offset + frame.length);
}

describe('dispatch frame', () => {
  it('comes back as it went, at any alignment', () => {
    fc.assert(
      fc.property(dispatch, fc.nat(15), (made, offset) => {
        const frame = makeDispatch(made);
        const got = parseFrame(shifted(frame, offset));
        if (got.kind !== 'dispatch') throw new Error(got.kind);
        expect(got).toMatchObject({ ...made.header });
        for (let p = 0; p < made.header.pairs; p++) {
          expect(got.pairRow[p]).toBe((made.seed + p) % made.header.rows);
          expect(got.pairExpert[p]).toBe((made.seed * 7 + p) % limits.expertsMax);
          expect(got.pairWeight[p]).toBe(Math.fround((p + 1) / (made.seed + 1)));
        }
        const { rows: count, hidden, dtype } = made.header;
        const each = { f32: 4 * hidden, bf16: 2 * hidden, int8: 4 + hidden, fp8: 4 * Math.ceil(hidden / 128) + hidden }[dtype];
        expect(got.rowsBytes).toBe(count * each);
        const rows = got.bytes.subarray(got.rowsOffset, got.rowsOffset + got.rowsBytes);
        expect(rows.every((byte, i) => byte === ((made.seed + i) & 255))).toBe(true);
      }),
      { numRuns: 300 },
    );
  });

  it('does not copy rows, nor tables that are aligned', () => {
    const frame = makeDispatch({ header: { ...sample, dtype: 'bf16', scope: 'worker', pairs: 5 }, seed: 1 });
    const got = parseFrame(frame);
    if (got.kind !== 'dispatch') throw new Error(got.kind);
    expect(got.bytes).toBe(frame);
    expect([got.pairRow.buffer, got.pairExpert.buffer, got.pairWeight.buffer]).toEqual([frame.buffer, frame.buffer, frame.buffer]);
  });

  it('leaves nothing of the memory it was made in', () => {
    const header: DispatchHeader = { ...sample, rows: 1, hidden: 1, dtype: 'bf16', scope: 'worker', pairs: 1 };
    const frames = [0, 255].map((fill) => {
      const frame = frameMemory(dispatchFrameBytes(header)).fill(fill);
      const tables = encodeDispatchHeader(frame, header);
      tables.pairRow[0] = tables.pairExpert[0] = tables.pairWeight[0] = 0;
      frame.fill(1, tables.rowsOffset, tables.rowsOffset + tables.rowsBytes);
      sealFrame(frame);
      return frame;
    });
    expect(frames[0]).toEqual(frames[1]);
  });

  it('is made in memory of its length and alignment, or not at all', () => {
    const header: DispatchHeader = { ...sample, dtype: 'f32', scope: 'worker', pairs: 3 };
    const bytes = dispatchFrameBytes(header);
    const memory = new Uint8Array(bytes + 16);
    expect(() => encodeDispatchHeader(memory.subarray(8, 8 + bytes), header)).not.toThrow();
    for (const [from, length] of [
      [4, bytes],
      [0, bytes - 8],
      [0, bytes + 8],
    ])
      expect(() => encodeDispatchHeader(memory.subarray(from, from + length), header)).toThrow(
        expect.objectContaining({ code: 'internal' }),
      );
  });

  it('notices every changed bit of header and tables', () => {
    const frame = makeDispatch({ header: { ...sample, dtype: 'f32', scope: 'worker', pairs: 3 }, seed: 9 });
    const parsed = parseFrame(frame);
    if (parsed.kind !== 'dispatch') throw new Error(parsed.kind);
    for (let bit = 0; bit < parsed.rowsOffset * 8; bit++) {
      const damaged = frame.slice();
      damaged[bit >> 3] ^= 1 << (bit & 7);
      expect(() => parseFrame(damaged), `bit ${bit}`).toThrow(SwitchyardError);
    }
  });

  it.each([
    ['rows 0', { rows: 0 }],
    ['too many rows', { rows: limits.frameRowsMax + 1 }],
    ['no pairs', { pairs: 0 }],
    ['more pairs than rows allow', { pairs: sample.rows * limits.topKMax + 1 }],
    ['hidden 0', { hidden: 0 }],
    ['a hidden size beyond the limit', { hidden: limits.hiddenMax + 1 }],
    ['a frame beyond the limit', { rows: 4096, hidden: 65_536 }],
    ['a worker beyond the limit', { source: limits.workersMax }],
    ['a fraction of an epoch', { epoch: 0.5 }],
    ['a tag beyond 2^53', { tag: 2 ** 53 }],
  ])('is not made with %s', (_, fields) => {
    const header: DispatchHeader = { ...sample, dtype: 'f32', scope: 'worker', pairs: 1, ...fields };
    // Memory of the wanted length is only pretended where it would be gigabytes.
    const bytes = dispatchFrameBytes(header);
    const frame =
      bytes < 2 ** 20 && bytes >= FRAME_HEADER_BYTES
        ? frameMemory(bytes)
        : ({ length: bytes, byteOffset: 0, buffer: new ArrayBuffer(64), byteLength: 64 } as Uint8Array);
    expect(() => encodeDispatchHeader(frame, header)).toThrow(expect.objectContaining({ code: 'bad_frame' }));
  });

  it.each([
    ['pairRow', (t: ReturnType<typeof encodeDispatchHeader>) => (t.pairRow[1] = 6)],
    ['pairExpert', (t: ReturnType<typeof encodeDispatchHeader>) => (t.pairExpert[1] = limits.expertsMax)],
    ['pairWeight', (t: ReturnType<typeof encodeDispatchHeader>) => (t.pairWeight[1] = Number.NaN)],
  ])('is refused for a bad %s, by that name', (field, spoil) => {
    const header: DispatchHeader = { ...sample, dtype: 'f32', scope: 'worker', pairs: 3 };
    const frame = frameMemory(dispatchFrameBytes(header));
    const tables = encodeDispatchHeader(frame, header);
    tables.pairRow.fill(0);
    tables.pairExpert.fill(0);
    tables.pairWeight.fill(1);
    spoil(tables);
    sealFrame(frame);
    expect(() => parseFrame(frame)).toThrow(expect.objectContaining({ code: 'bad_frame', param: `${field}[1]` }));
  });
});

describe('combine frame', () => {
  it('comes back as it went', () => {
    fc.assert(
      fc.property(frameHeader, fc.nat(15), fc.nat(), (header, offset, seed) => {
        const sumBytes = 8 * (1 + (seed % header.rows));
        const frame = frameMemory(FRAME_HEADER_BYTES + sumBytes + 64).fill(seed);
        const sent = encodeCombineHeader(frame, header, sumBytes);
        const got = parseFrame(shifted(sent, offset));
        if (got.kind !== 'combine') throw new Error(got.kind);
        expect(got).toMatchObject({ ...header, sumOffset: FRAME_HEADER_BYTES, sumBytes });
        expect(got.bytes.subarray(got.sumOffset).every((byte) => byte === (seed & 255))).toBe(true);
      }),
    );
  });

  it('is not made with sums that cannot be', () => {
    const frame = frameMemory(1 << 20);
    expect(() => encodeCombineHeader(frame, sample, 12)).toThrow(/multiple of 8/);
    for (const bytes of [(1 << 20) - FRAME_HEADER_BYTES + 8, 1 << 20])
      expect(() => encodeCombineHeader(frame, sample, bytes)).toThrow(/fit/);
    expect(() => encodeCombineHeader(frame, sample, 0)).toThrow(expect.objectContaining({ code: 'bad_frame', param: 'payload bytes' }));
    expect(() => encodeCombineHeader(frame, { ...sample, rows: 1, hidden: 1 }, 24)).toThrow(expect.objectContaining({ code: 'bad_frame' }));
  });
});

describe('error frame', () => {
  it('comes back as it went, for every code', () => {
    for (const code of Object.keys(errorCatalogue) as ErrorCode[]) {
      const got = parseFrame(encodeErrorFrame(sample, code, `no ${code} today ☂`));
      expect(got).toMatchObject({ kind: 'error', ...sample, code, message: `no ${code} today ☂` });
    }
  });

  it('is never without a message, and keeps one of just the length that is allowed', () => {
    expect(parseFrame(encodeErrorFrame(sample, 'queue_full', ''))).toMatchObject({ message: 'queue_full' });
    // As it was written, a byte order mark included.
    const message = `\ufeff${'x'.repeat(limits.errorMessageBytesMax - 3)}`;
    expect(parseFrame(encodeErrorFrame(sample, 'internal', message))).toMatchObject({ message });
  });

  it.each(['dispatch', 'combine', 'error'] as const)('like any %s frame is not made of fields that no frame can carry', (kind) => {
    for (const fields of [{ layer: 65_536 }, { epoch: 2 ** 32 }, { step: -1 }, { numericClass: 256 }, { rows: 0 }, { hidden: 0 }]) {
      const header = { ...sample, rows: 1, ...fields };
      const make = {
        dispatch: () => {
          const shape: DispatchHeader = { ...header, dtype: 'f32', scope: 'worker', pairs: 1 };
          return encodeDispatchHeader(frameMemory(dispatchFrameBytes(shape)), shape);
        },
        combine: () => encodeCombineHeader(frameMemory(FRAME_HEADER_BYTES + 16), header, 16),
        error: () => encodeErrorFrame(header, 'internal', 'why'),
      }[kind];
      expect(make, JSON.stringify(fields)).toThrow(expect.objectContaining({ code: 'bad_frame' }));
    }
  });

  it.each(['x', 'xx', 'xxx'])('cuts a long message between characters: %s', (first) => {
    const got = parseFrame(encodeErrorFrame(sample, 'internal', `${first}${'☂'.repeat(2000)}`));
    if (got.kind !== 'error') throw new Error(got.kind);
    expect(got.message).toMatch(/^x+☂+$/);
    expect(Buffer.byteLength(got.message)).toBeGreaterThan(limits.errorMessageBytesMax - 3);
    expect(Buffer.byteLength(got.message)).toBeLessThanOrEqual(limits.errorMessageBytesMax);
  });
});

describe('parseFrame', () => {
  const anyFrame = fc.oneof(
    dispatch.map(makeDispatch),
    frameHeader.map((header) => encodeCombineHeader(frameMemory(FRAME_HEADER_BYTES + 8).fill(1), header, 8)),
    fc.tuple(frameHeader, fc.string({ minLength: 1 })).map(([header, message]) => encodeErrorFrame(header, 'internal', message)),
  );

  it('fails by SwitchyardError only, and looks at nothing outside the frame', () => {
    const damage = fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 6 });
    fc.assert(
      fc.property(anyFrame, damage, fc.nat(), fc.nat(15), fc.boolean(), (frame, edits, cut, offset, mend) => {
        const bytes = frame.slice(0, cut % 4 === 0 ? cut % frame.length : frame.length);
        for (const [at, byte] of edits) if (bytes.length > 0) bytes[at % Math.min(bytes.length, 120)] = byte;
        // A checksum that fits lets the damage through to the checks behind it.
        if (mend && bytes.length >= FRAME_HEADER_BYTES && bytes[6] === 3) reseal(bytes);
        const memory = shifted(bytes, offset);
        const guard = new Uint8Array(memory.buffer).slice();
        try {
          const got = parseFrame(memory);
          if (got.kind === 'dispatch') {
            expect(got.rowsOffset + got.rowsBytes).toBeLessThanOrEqual(memory.length);
            for (const row of got.pairRow) expect(row).toBeLessThan(got.rows);
          }
          if (got.kind === 'combine') expect(got.sumOffset + got.sumBytes).toBe(memory.length);
        } catch (error) {
          expect(error).toBeInstanceOf(SwitchyardError);
        }
        expect(new Uint8Array(memory.buffer)).toEqual(guard);
      }),
      { numRuns: 3000 },
    );
  });

  const dispatched = makeDispatch({ header: { ...sample, dtype: 'f32', scope: 'worker', pairs: 3 }, seed: 9 });
  const combined = encodeCombineHeader(frameMemory(FRAME_HEADER_BYTES + 16).fill(1), { ...sample, rows: 1 }, 16);
  const failed = encodeErrorFrame(sample, 'internal', 'why');
  const u16 = (at: number, value: number) => (view: DataView) => view.setUint16(at, value, true);
  const u32 = (at: number, value: number) => (view: DataView) => view.setUint32(at, value, true);
  const f32 = (at: number, value: number) => (view: DataView) => view.setFloat32(at, value, true);
  const u8 = (at: number, value: number) => (view: DataView) => view.setUint8(at, value);
  // Three pairs: rows, experts and weights take 8, 8 and 16 bytes.
  const weightsAt = FRAME_HEADER_BYTES + 16;
  const tablesEnd = weightsAt + 16;
  type Edit = (view: DataView) => void;
  const everywhere: [string, Edit][] = [
    ['magic', u32(0, 7)],
    ['payload bytes', u32(32, 4)],
    ['rows', u32(20, 0)],
    ['rows', u32(20, limits.frameRowsMax + 1)],
    ['hidden', u32(28, 0)],
    ['hidden', u32(28, limits.hiddenMax + 1)],
    ['source', u16(18, limits.workersMax)],
    ['tag', u32(52, 1 << 21)],
    ['reserved bytes 42..43', u8(42, 1)],
    ['reserved bytes 42..43', u8(43, 1)],
    ['reserved bytes 56..63', u8(56, 1)],
    ['reserved bytes 56..63', u8(63, 1)],
    ['kind', u8(6, 0)],
    ['kind', u8(6, 4)],
  ];
  const tableless: [string, Edit][] = [
    ['pairs', u32(24, 1)],
    ['row dtype', u8(7, 1)],
    ['scope', u8(41, 1)],
  ];
  const kinds: [string, Uint8Array, number, [string, Edit][]][] = [
    [
      'dispatch',
      dispatched,
      tablesEnd,
      [
        ...everywhere,
        ['row dtype', u8(7, 4)],
        ['scope', u8(41, 2)],
        ['pairs', u32(24, 0)],
        ['pairs', u32(24, sample.rows * limits.topKMax + 1)],
        ['error code', u32(44, 1)],
        ['payload bytes', u32(28, sample.hidden + 2)],
        ['pairWeight[2]', f32(weightsAt + 8, Number.POSITIVE_INFINITY)],
        ['pairWeight[0]', f32(weightsAt, Number.NaN)],
      ],
    ],
    ['combine', combined, FRAME_HEADER_BYTES, [...everywhere, ...tableless, ['error code', u32(44, 1)]]],
    [
      'error',
      failed,
      failed.length,
      [...everywhere, ...tableless, ['error code', u32(44, Object.keys(errorCatalogue).length)], ['message', u8(64, 0xff)]],
    ],
  ];
  it.each(kinds)('refuses a %s frame by the field that is wrong, though its checksum fits', (_, frame, checkedEnd, edits) => {
    const sealed = (bytes: Uint8Array) => {
      new DataView(bytes.buffer).setUint32(36, crc32(bytes.subarray(40, checkedEnd), crc32(bytes.subarray(0, 36))), true);
      return bytes;
    };
    expect(() => parseFrame(sealed(Uint8Array.from(frame)))).not.toThrow();
    for (const [param, edit] of edits) {
      const bytes = Uint8Array.from(frame);
      edit(new DataView(bytes.buffer));
      expect(() => parseFrame(sealed(bytes)), param).toThrow(expect.objectContaining({ code: 'bad_frame', param }));
    }
    // The step, and the last byte that the checksum is about.
    for (const at of [12, checkedEnd - 1]) {
      const unsealed = sealed(Uint8Array.from(frame));
      unsealed[at] ^= 1;
      expect(() => parseFrame(unsealed)).toThrow(expect.objectContaining({ code: 'bad_frame' }));
    }
  });

  /** A frame of one row of one column with these bytes behind the header, and a checksum that fits. */
  const ofPayload = (kind: 'combine' | 'error', payload: Uint8Array) => {
    const model =
      kind === 'error' ? failed : encodeCombineHeader(frameMemory(FRAME_HEADER_BYTES + 16).fill(0), { ...sample, rows: 1, hidden: 1 }, 16);
    const bytes = Uint8Array.from([...model.subarray(0, FRAME_HEADER_BYTES), ...payload]);
    const view = new DataView(bytes.buffer);
    view.setUint32(32, payload.length, true);
    const end = kind === 'error' ? bytes.length : FRAME_HEADER_BYTES;
    view.setUint32(36, crc32(bytes.subarray(40, end), crc32(bytes.subarray(0, 36))), true);
    return bytes;
  };

  it('refuses sums and messages of lengths that cannot be', () => {
    for (const bytes of [0, 12, 24])
      expect(() => parseFrame(ofPayload('combine', new Uint8Array(bytes)))).toThrow(expect.objectContaining({ param: 'payload bytes' }));
    expect(parseFrame(ofPayload('combine', new Uint8Array(16)))).toMatchObject({ sumBytes: 16 });
    for (const bytes of [0, limits.errorMessageBytesMax + 1])
      expect(() => parseFrame(ofPayload('error', new Uint8Array(bytes).fill(97)))).toThrow(
        expect.objectContaining({ param: 'payload bytes' }),
      );
    expect(parseFrame(ofPayload('error', new Uint8Array(limits.errorMessageBytesMax).fill(97)))).toMatchObject({ kind: 'error' });
    for (const bytes of [FRAME_HEADER_BYTES - 1, limits.frameBytesMax + 1])
      expect(() => parseFrame(new Uint8Array(bytes))).toThrow(expect.objectContaining({ param: 'length' }));
  });

  it('takes no random bytes for a frame', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 500 }), (bytes) => {
        expect(() => parseFrame(bytes)).toThrow(expect.objectContaining({ code: 'bad_frame' }));
      }),
    );
  });

  it('tells another version from damage', () => {
    const frame = encodeErrorFrame(sample, 'internal', 'x');
    frame[4]++;
    expect(() => parseFrame(frame)).toThrow(expect.objectContaining({ code: 'version_mismatch' }));
  });
});

function reseal(bytes: Uint8Array): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  view.setUint32(36, crc32(bytes.subarray(40), crc32(bytes.subarray(0, 36))), true);
}
