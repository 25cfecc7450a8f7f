import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { commandOf } from '../command.mjs';

const root = fileURLToPath(new URL('../..', import.meta.url));

it("a report's command has every flag that decides what was measured, and nothing of the machine", () => {
  const flags = { with: '/home/me/other', model: path.join(root, 'models/shunter-16m'), rounds: '5', only: undefined, out: '/tmp/x' };
  expect(commandOf('bench/engine/compare.mjs', flags, { with: 'OTHER' })).toBe(
    'node bench/engine/compare.mjs --with OTHER --model models/shunter-16m --rounds 5',
  );
  expect(commandOf('bench/exchange/run.mjs', { model: '/home/me/olmoe', only: 'uds,tcp' })).toBe(
    'node bench/exchange/run.mjs --model olmoe --only uds,tcp',
  );
});
