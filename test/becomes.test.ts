import { expect, it } from 'vitest';
import { becomes } from './becomes.ts';

it('waits for what comes, and says what did not', async () => {
  let turns = 0;
  await becomes(() => ++turns === 3);
  await becomes(async () => ++turns === 6, { everyMs: 0 });
  await expect(becomes(() => turns === 0, { msMax: 20 })).rejects.toThrow('it did not become so within 20 ms: () => turns === 0');
});
