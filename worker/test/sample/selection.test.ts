import { describe, expect, test } from 'vitest';
import { leastMass, Selection } from '../../src/sample/selection.ts';

describe('the fewest tokens that reach a mass', () => {
  const selection = new Selection(8);
  const masses = [0.25, 1, 0.125, 0.5, 0.125];
  const keep = (wanted: number, least: number) => {
    const tokens = Int32Array.of(2, 3, 5, 6, 7);
    const mass = Float64Array.from(masses);
    return { left: selection.keepMass(tokens, mass, 5, wanted, least), tokens: [...tokens], mass: [...mass] };
  };
  const unchanged = { tokens: [2, 3, 5, 6, 7], mass: masses };

  test('are not known where smaller ones, which are not there, may be wanted: nothing is changed', () => {
    const least = leastMass(0.1);
    expect(least).toBeGreaterThan(0);
    expect(keep(2.01, least)).toEqual({ left: null, ...unchanged });
  });

  test('are known where all are there, however little is missing', () => {
    expect(keep(2.01, 0)).toEqual({ left: 5, ...unchanged });
  });

  test('are known where those that are there reach it', () => {
    const { left, tokens, mass } = keep(1.8, leastMass(0.1));
    expect([left, tokens.slice(0, 4), mass.slice(0, 4)]).toEqual([4, [2, 3, 5, 6], [0.25, 1, 0.125, 0.5]]);
  });
});
