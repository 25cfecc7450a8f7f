import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { EventStreamReader } from '../src/api/event-stream.ts';

const encoder = new TextEncoder();

function readAll(bytes: Uint8Array, cuts: number[]): string[] {
  const reader = new EventStreamReader();
  const events: string[] = [];
  let from = 0;
  for (const cut of [...cuts, bytes.length]) {
    events.push(...reader.push(bytes.subarray(from, cut)));
    from = cut;
  }
  return events;
}

describe('event stream', () => {
  it('reads data fields, joins lines, skips comments and other fields', () => {
    const text = ': ping\n\nevent: x\nid: 1\ndata: one\n\ndata:two\ndata: three\n\nretry: 5\n\n';
    expect(readAll(encoder.encode(text), [])).toEqual(['one', 'two\nthree']);
  });

  it('does not give out an event before its blank line', () => {
    expect(readAll(encoder.encode('data: one\n'), [])).toEqual([]);
  });

  it('accepts all three line ends', () => {
    expect(readAll(encoder.encode('data: a\r\n\r\ndata: b\n\ndata: c\r\rdata: d\r\n\r\n'), [])).toEqual(['a', 'b', 'c', 'd']);
  });

  it('reads the same events wherever the bytes are cut', () => {
    const payload = fc.string({ unit: 'grapheme', maxLength: 20 }).filter((text) => !/[\r\n]/.test(text));
    fc.assert(
      fc.property(
        fc.array(payload, { maxLength: 8 }),
        fc.constantFrom('\n', '\r\n'),
        fc.array(fc.nat(400), { maxLength: 12 }),
        (payloads, end, cuts) => {
          const bytes = encoder.encode(payloads.map((p) => `data: ${p}${end}${end}`).join(''));
          const places = cuts.map((c) => c % (bytes.length + 1)).sort((a, b) => a - b);
          expect(readAll(bytes, places)).toEqual(payloads);
        },
      ),
    );
  });
});
