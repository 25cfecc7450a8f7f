import { expect, it } from 'vitest';
import { visible } from '../src/terminal/visible.ts';

it('shows a terminal control characters instead of having them obeyed, and others what was said', () => {
  const said = 'a\tb\n\u001b]52;c;aGk=\u0007 \u009b31m red\r\u007f é 😀';
  expect(visible(said, { isTTY: true })).toBe('a\tb\n␛]52;c;aGk=␇ \ufffd31m red␍␡ é 😀');
  expect(visible(said, {})).toBe(said);
});
