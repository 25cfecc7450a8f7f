/** fast-check as `npm run fuzz` has it (scripts/fuzz.mjs): every property is tried for so many seconds instead of so many runs, from a seed of its own each time. */
import fc from 'fast-check';

export * from 'fast-check';

const RUNS_MAX = 2 ** 31 - 1;
const seconds = Number(process.env.SWITCHYARD_FUZZ_SECONDS);

function assert<T>(property: fc.IRawProperty<T>, { seed: _seed, path: _path, ...rest }: fc.Parameters<T> = {}): Promise<void> | void {
  const longer = { numRuns: RUNS_MAX, interruptAfterTimeLimit: 1000 * seconds, markInterruptAsFailure: false };
  return fc.assert(property, { ...rest, ...longer });
}

export default { ...fc, assert };
