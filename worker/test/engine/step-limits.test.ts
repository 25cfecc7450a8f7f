import { expect, test, vi } from 'vitest';
import type { StepLimits } from '../../src/engine/schedule.ts';
import type { Sequence } from '../../src/engine/sequence.ts';
import { stepLimits } from '../../src/engine/step-limits.ts';
import { Activity } from '../../src/engine/time-split.ts';

const limits: StepLimits = { rows: 256, sequences: 4, logitRows: 8, blockTokens: 4, watermarkBlocks: 1, othersWait: false };
const prompt = (overrides: Partial<Sequence> = {}) =>
  ({ length: 400, computed: 0, likelyCached: 0, submittedMs: 5000, ending: false, ...overrides }) as Sequence;

function at(
  nowMs: number,
  othersMs: number,
  running: Sequence[],
  waiting: Sequence[] = [],
  work: 'all' | 'prefill' = 'prefill',
): StepLimits {
  const clock = vi.spyOn(performance, 'now').mockReturnValue(nowMs);
  const endedMs = new Float64Array(7).fill(Number.NEGATIVE_INFINITY);
  endedMs[Activity.expertsOthers] = othersMs;
  const found = stepLimits({ work, limits }, running, waiting, { endedMs });
  clock.mockRestore();
  return found;
}

test('other homes wait for a worker that has computed for them within a second', () => {
  for (const work of ['all', 'prefill'] as const) {
    expect(at(9000, Number.NEGATIVE_INFINITY, [], [], work).othersWait).toBe(false);
    expect(at(9000, 8001, [], [], work).othersWait).toBe(true);
    expect(at(9000, 8000, [], [], work).othersWait).toBe(false);
  }
});

test('a prompt that is alone goes in smaller steps, whoever is about to end beside it', () => {
  expect(at(9000, 0, [prompt()]).rows).toBe(128);
  expect(at(9000, 0, [prompt({ ending: true }), prompt()]).rows).toBe(128);
  expect(at(9000, 0, [prompt()], [prompt()]).rows).toBe(256);
  expect(at(9000, 5000, [prompt()]).rows).toBe(256);
  expect(at(9000, 0, [prompt()], [], 'all').rows).toBe(256);
});

test('what is cut into all lanes is what the prefix cache does not have, and what is computed again', () => {
  expect(at(9000, 0, [prompt({ length: 4000, computed: 3600, likelyCached: 3600 })]).rows).toBe(128);
  expect(at(9000, 0, [prompt({ length: 4000, computed: 3728, likelyCached: 3600 })]).rows).toBe(128);
  expect(at(9000, 0, [], [prompt({ length: 4000, likelyCached: 3600 })]).rows).toBe(128);
  expect(at(9000, 0, [prompt({ length: 4000, promptLength: 100 })]).rows).toBe(256);
});
