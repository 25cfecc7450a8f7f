import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { HeldText } from '../src/api/held-text.ts';

const entry = fc.oneof(fc.string(), fc.array(fc.string({ maxLength: 8 })));

describe('held text', () => {
  it('is taken in order, as much at a time as is asked for and the part that this ends in', () => {
    fc.assert(
      fc.property(fc.array(entry), fc.integer({ min: 1, max: 20 }), (entries, charsMin) => {
        const held = new HeldText();
        const textChars = entries.filter((one) => typeof one === 'string').join('').length;
        for (const one of entries)
          if (typeof one === 'string') held.add(one);
          else held.addLater(one, one.join('').length);
        expect(held.kept).toBe(entries.flat().join('').length);
        expect(held.textChars).toBe(textChars);
        let taken = '';
        while (!held.empty) {
          const piece = held.take(charsMin);
          expect(piece.length).toBeLessThan(charsMin + 8 + textChars);
          if (!held.empty) expect(piece.length).toBeGreaterThanOrEqual(charsMin);
          taken += piece;
        }
        expect(taken).toBe(entries.flat().join(''));
        expect([held.textChars, held.kept]).toEqual([0, 0]);
      }),
    );
  });

  it('makes parts when they are wanted, and none that nobody wants any more', () => {
    const made: string[] = [];
    const parts = function* () {
      for (const part of ['one ', 'two ', 'three ']) {
        made.push(part);
        yield part;
      }
    };
    const held = new HeldText();
    held.addLater(parts(), 14);
    held.add('end');
    expect(made).toEqual([]);
    expect(held.take(4)).toBe('one ');
    expect([held.textChars, held.kept]).toEqual([3, 17]);
    held.clear();
    expect([held.empty, held.kept, held.take(100), made]).toEqual([true, 0, '', ['one ']]);
  });
});
