import { expect, it } from 'vitest';
import { median } from '../median.mjs';

it('the median of an even number of values is between the two in the middle, so that it is the other way round for what is the other way round', () => {
  expect(median([3, 1, 2])).toBe(2);
  expect(median([0.5, 2, 1, 8])).toBe(1.5);
  expect(median([-8, -1, -2, -0.5])).toBe(-1.5);
});
