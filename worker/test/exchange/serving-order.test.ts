import { describe, expect, test } from 'vitest';
import { goesAlong, nextToServe } from '../../src/exchange/serving-order.ts';

const frame = (rows: number, passed = 0, blocked = false) => ({ rows, passed, blocked });

describe('nextToServe', () => {
  test('few rows pass many, the oldest of them first', () => {
    expect(nextToServe([frame(256), frame(256), frame(2), frame(1)])).toBe(2);
    expect(nextToServe([frame(256), frame(512)])).toBe(0);
    expect(nextToServe([frame(3), frame(2)])).toBe(0);
  });

  test('but not for ever', () => {
    expect(nextToServe([frame(256, 7), frame(2)])).toBe(1);
    expect(nextToServe([frame(256, 8), frame(2)])).toBe(0);
  });

  test('a client that takes no answers is left out', () => {
    expect(nextToServe([frame(256, 8, true), frame(300), frame(1, 0, true)])).toBe(1);
    expect(nextToServe([frame(1, 0, true)])).toBe(-1);
    expect(nextToServe([])).toBe(-1);
  });
});

describe('goesAlong', () => {
  test('few rows wait for no more than others of their kind; many take all along', () => {
    expect(goesAlong(frame(2), frame(64))).toBe(true);
    expect(goesAlong(frame(2), frame(65))).toBe(false);
    expect(goesAlong(frame(256), frame(2))).toBe(true);
    expect(goesAlong(frame(256), frame(256))).toBe(true);
    expect(goesAlong(frame(256), frame(2, 0, true))).toBe(false);
  });
});
