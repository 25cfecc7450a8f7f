import fc from 'fast-check';
import { afterEach, describe, expect, it, vi } from 'vitest';
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

afterEach(() => void vi.restoreAllMocks());

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

  it('gives out an event with the carriage return that ends it, and takes a line feed after that for no other end', () => {
    const reader = new EventStreamReader();
    const pushed = ['data: a\r\n\r', '', '\ndata: b\r', '\ndata: c', '\n\n'].map((text) => reader.push(encoder.encode(text)));
    expect(pushed).toEqual([['a'], [], [], [], ['b\nc']]);
  });

  it.each([
    ['one line', 'x'],
    ['many lines', 'data: x\n'],
    ['many lines without anything', 'data:\n'],
  ])('does not take in an event of %s without an end', (_, text) => {
    const reader = new EventStreamReader();
    const chunk = encoder.encode(text.repeat(1024 * 1024));
    const pushAll = () => {
      for (let i = 0; i < 20; i++) reader.push(chunk);
    };
    expect(pushAll).toThrow('an event of the stream exceeds 16777216 characters');
  });

  it('takes in any number of events', () => {
    const reader = new EventStreamReader();
    const chunk = encoder.encode(`data: ${'x'.repeat(1024 * 1024)}\n\n`);
    for (let i = 0; i < 20; i++) expect(reader.push(chunk)).toHaveLength(1);
  });

  it('looks at each character of a long line once', () => {
    const bytes = encoder.encode(`data: ${'x'.repeat(4096)}\n\n`);
    const cuts = Array.from({ length: 256 }, (_, i) => 16 * (i + 1));
    const looked = vi.spyOn(String.prototype, 'charCodeAt');
    const events = readAll(bytes, cuts);
    const times = looked.mock.calls.length;
    expect(events).toEqual(['x'.repeat(4096)]);
    expect(times).toBeLessThanOrEqual(bytes.length);
  });

  it('reads the same events wherever the bytes are cut', () => {
    const payload = fc.string({ unit: 'grapheme', maxLength: 20 }).filter((text) => !/[\r\n]/.test(text));
    fc.assert(
      fc.property(
        fc.array(payload, { maxLength: 8 }),
        fc.constantFrom('\n', '\r\n', '\r'),
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
