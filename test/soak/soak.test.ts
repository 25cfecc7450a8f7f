import { expect, it } from 'vitest';
import { questionsFrom } from './questions.mjs';
import { soak } from './soak.mjs';

it('a cluster whose workers are killed, stopped and stand still answers as one worker alone does, and leaves nothing behind', async () => {
  const kinds = ['kill', 'freeze', 'terminate', 'noise'];
  const { rounds, whole, wrong } = await soak({ seed: 20_261_127, rounds: kinds.length, questions: 18, asked: 24, kinds });
  expect(wrong).toEqual([]);
  expect(rounds).toBe(kinds.length);
  expect(whole).toBeGreaterThan(48);
}, 240_000);

it('asks the same again for the same seed', () => {
  expect(questionsFrom(3, 20)).toEqual(questionsFrom(3, 20));
  expect(questionsFrom(3, 20)).not.toEqual(questionsFrom(4, 20));
});
