import { afterEach, expect, it, vi } from 'vitest';
import { glpkIn } from '../src/ilp/glpk.ts';
import { HighsSession, place, proveStars, proveWindows, SolverFailure, transitionsOf } from '../src/index.ts';
import { expectValid, testTopology, toyTrace } from './slice.ts';

afterEach(() => {
  vi.restoreAllMocks();
});

const trace = toyTrace({ layers: 3, experts: 6, topK: 2, sequences: 6, tokensEach: 5 });
const topology = testTopology(3, 1, 9);

function proveByWindows() {
  const transitions = transitionsOf(trace, 'top1');
  const stars = proveStars(transitions, 2);
  const windows = proveWindows(transitions, stars, { parts: 3, partExpertsMax: 2, width: 3, rounds: 2, timeLimitMs: 60_000 });
  return { stars, windows };
}

it('is told apart from other errors', async () => {
  const session = new HighsSession();
  // No program was loaded.
  await expect(session.run(1000)).rejects.toThrow(SolverFailure);
  await session.close();
});

it('costs neither a plan nor a proof: both are what they are without the solver', async () => {
  const run = vi.spyOn(HighsSession.prototype, 'run').mockRejectedValue(new SolverFailure('highs: out of memory'));
  const { stars, windows } = proveByWindows();
  expect(await windows).toEqual({ proofs: stars.proofs, bound: stars.bound });
  expect(run).toHaveBeenCalledTimes(1);
  const { plan, cluster } = await place(trace, topology, { starts: 1 });
  expect(run.mock.calls.length).toBeGreaterThan(1);
  expectValid(plan, cluster.slotsOf);
});

it('hides no error of ours', async () => {
  vi.spyOn(HighsSession.prototype, 'run').mockRejectedValue(new TypeError('ours'));
  await expect(proveByWindows().windows).rejects.toThrow('ours');
  await expect(place(trace, topology, { starts: 1 })).rejects.toThrow('ours');
});

it('is known before anything is solved where the second solver is not installed', () => {
  expect(() => glpkIn(['/nowhere/node_modules', '/node_modules/none'])).toThrow(expect.objectContaining({ code: 'not_found' }));
});
