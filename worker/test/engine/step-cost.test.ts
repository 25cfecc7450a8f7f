import { describe, expect, test } from 'vitest';
import { StepCost } from '../../src/engine/step-cost.ts';

/** Deterministic noise in [-1, 1]. */
function noise(i: number): number {
  return Math.sin(i * 12.9898) * Math.cos(i * 4.1414);
}

function fed(steps: number, rowsOf: (i: number) => number, msOf: (rows: number, i: number) => number, cost = new StepCost()): StepCost {
  for (let i = 0; i < steps; i++) cost.add(rowsOf(i), msOf(rowsOf(i), i));
  return cost;
}

describe('StepCost', () => {
  test('finds what rows share and what each takes, through noise', () => {
    const cost = fed(
      400,
      (i) => 1 + (i % 8),
      (rows, i) => 12 + 1.5 * rows + noise(i),
    );
    expect(cost.rowMs).toBeCloseTo(1.5, 0);
    expect(cost.ms(1)).toBeCloseTo(13.5, 0);
    expect(cost.ms(20)).toBeCloseTo(42, -1);
  });

  test('knows nothing before the first step, and assumes that rows are cheap while all steps are alike', () => {
    const cost = new StepCost();
    expect([cost.rowMs, cost.ms(5)]).toEqual([0, 0]);
    fed(
      100,
      () => 1,
      () => 9,
      cost,
    );
    expect(cost.rowMs).toBeCloseTo(1);
    expect(cost.ms(1)).toBeCloseTo(9);
  });

  test('comes back to that assumption when steps are alike for long, so that guesses are tried again', () => {
    const linear = fed(
      200,
      (i) => 1 + (i % 4),
      (rows) => 10 * rows,
    );
    expect(linear.rowMs).toBeGreaterThan(8);
    fed(
      400,
      () => 1,
      () => 10,
      linear,
    );
    expect(linear.rowMs).toBeLessThan(2);
  });

  test('forgets within some hundred steps, and one long pause is not a trend', () => {
    const rowsOf = (i: number) => 1 + (i % 4);
    const cost = fed(200, rowsOf, (rows) => 10 + rows);
    cost.add(4, 5000);
    expect(cost.ms(1)).toBeLessThan(13);
    fed(300, rowsOf, (rows) => 2 + 4 * rows, cost);
    expect(cost.rowMs).toBeGreaterThan(3.5);
  });

  test('never takes a row for nearly free, nor for more than all rows have taken', () => {
    const shrinking = fed(
      100,
      (i) => 1 + (i % 8),
      (rows) => 40 - 3 * rows,
    );
    expect(shrinking.rowMs).toBeCloseTo(26.5 / (4.5 + 48), 1);
    const steep = fed(
      100,
      (i) => 7 + (i % 2),
      (rows) => (rows === 7 ? 1 : 3),
    );
    expect(steep.rowMs).toBeLessThanOrEqual(2 / 7.4);
  });
});
