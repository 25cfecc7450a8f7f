import { expect, it } from 'vitest';
import { inTurn } from '../turns.mjs';

it('systems take turns at being first, and their list stays as it is', () => {
  const names = ['a', 'b', 'c'];
  expect([0, 1, 2].map((round) => inTurn(names, round).join(''))).toEqual(['abc', 'cba', 'abc']);
  expect(names).toEqual(['a', 'b', 'c']);
});
