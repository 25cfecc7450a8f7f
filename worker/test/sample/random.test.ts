import { describe, expect, test } from 'vitest';
import { philox4x32, uniformAt } from '../../src/sample/random.ts';

describe('Philox 4x32-10', () => {
  // Known answers of the authors' Random123 library (kat_vectors).
  test.each([
    [
      [0, 0, 0, 0],
      [0, 0],
      [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8],
    ],
    [
      [0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff],
      [0xffffffff, 0xffffffff],
      [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
    ],
    [
      [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
      [0xa4093822, 0x299f31d0],
      [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
    ],
  ])('counter %j, key %j', (counter, key, expected) => {
    const out = new Uint32Array(4);
    philox4x32(counter as [number, number, number, number], key as [number, number], out);
    expect([...out]).toEqual(expected);
  });

  test('draws are uniform, and differ by seed and by index', () => {
    const draws = Array.from({ length: 4000 }, (_, i) => uniformAt(123456789012345n, i));
    expect(Math.min(...draws)).toBeGreaterThanOrEqual(0);
    expect(Math.max(...draws)).toBeLessThan(1);
    expect(draws.reduce((a, b) => a + b) / draws.length).toBeCloseTo(0.5, 1);
    expect(new Set(draws).size).toBe(draws.length);
    expect(uniformAt(1n, 0)).not.toBe(uniformAt(2n, 0));
    expect(uniformAt(1n << 63n, 0)).not.toBe(uniformAt(0n, 0));
  });
});
