import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { SwitchyardError } from '../src/index.ts';
import { RingReader, RingWriter, regionBytes } from '../src/shared-ring.ts';

const ringBytes = 64;
const HEAD = 256;
const TAIL = 256 + 128;

function ring() {
  const memory = new ArrayBuffer(regionBytes(ringBytes));
  return { memory, writer: new RingWriter(memory, 0, ringBytes), reader: new RingReader(memory, 0, ringBytes) };
}

describe('a ring', () => {
  it('gives the bytes that were put, in order, however they are cut, and loses no wake-up', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 400 }),
        fc.array(fc.record({ put: fc.integer({ min: 0, max: 80 }), take: fc.integer({ min: 0, max: 80 }) }), {
          minLength: 1,
          maxLength: 60,
        }),
        (bytes, turns) => {
          const { writer, reader } = ring();
          const got: number[] = [];
          let sent = 0;
          let asleep = reader.sleep();
          let waiting = false;
          expect(asleep).toBe(true);
          for (const { put, take } of [...turns, ...Array.from({ length: 20 }, () => ({ put: 400, take: 80 }))]) {
            const before = sent;
            if (!waiting) {
              sent += writer.put(bytes.subarray(0, Math.min(bytes.length, sent + put)), sent);
              const woken = writer.publish();
              expect(woken).toBe(asleep);
              if (woken) asleep = false;
              if (sent < bytes.length && sent - before < put) waiting = writer.wait();
            }
            const piece = reader.peek(take);
            got.push(...piece);
            if (piece.length > 0 && reader.consume(piece.length)) {
              expect(waiting).toBe(true);
              waiting = false;
            }
            if (!asleep && reader.peek(1).length === 0) asleep = reader.sleep();
            // Whoever waits is owed something: never do both sides sleep on work.
            if (waiting) expect(sent - got.length).toBeGreaterThan(ringBytes / 2);
          }
          expect(got).toEqual(Array.from(bytes));
        },
      ),
      { numRuns: 300 },
    );
  });

  it('fails by bad_frame only, and reads nothing outside itself, whatever the other side writes', () => {
    fc.assert(
      fc.property(fc.integer(), fc.integer(), fc.integer({ min: 0, max: 200 }), (head, tail, bytes) => {
        const { memory, writer, reader } = ring();
        const words = new DataView(memory);
        words.setInt32(HEAD, head, true);
        words.setInt32(TAIL, tail, true);
        for (const look of [
          () => reader.peek(bytes),
          () => reader.sleep(),
          () => writer.put(new Uint8Array(bytes), 0),
          () => writer.publish(),
          () => writer.wait(),
        ]) {
          try {
            const seen = look();
            if (seen instanceof Uint8Array) expect(seen.byteOffset + seen.length).toBeLessThanOrEqual(4096 + ringBytes);
          } catch (error) {
            expect(error).toBeInstanceOf(SwitchyardError);
            expect(error).toMatchObject({ code: 'bad_frame' });
          }
        }
      }),
      { numRuns: 1000 },
    );
  });

  it('says so when an index is none', () => {
    const { memory, reader, writer } = ring();
    new DataView(memory).setUint32(HEAD, ringBytes + 1, true);
    expect(() => reader.peek(1)).toThrow(/65 bytes in a ring of 64/);
    new DataView(memory).setUint32(TAIL, 1, true);
    expect(() => writer.wait()).toThrow(expect.objectContaining({ code: 'bad_frame' }));
  });
});
