/** fast-check as `npm run fuzz` has it (scripts/fuzz.mjs): every property is tried again and again, from another seed each time, until its seconds are over. */
import fc from 'fast-check';

export * from 'fast-check';

const seconds = Number(process.env.SWITCHYARD_FUZZ_SECONDS);

/** As often as the test itself would, once more while there is time: a run that has begun is seen to its end, so that one that hangs is a test that hangs. */
function assert<T>(property: fc.IRawProperty<T>, { seed: _seed, path: _path, ...parameters }: fc.Parameters<T> = {}): Promise<void> | void {
  const untilMs = performance.now() + 1000 * seconds;
  if (property.isAsync()) return assertAsync(property, parameters, untilMs);
  do void fc.assert(property, parameters);
  while (performance.now() < untilMs);
}

async function assertAsync<T>(property: fc.IRawProperty<T>, parameters: fc.Parameters<T>, untilMs: number): Promise<void> {
  do await fc.assert(property, parameters);
  while (performance.now() < untilMs);
}

export default { ...fc, assert };
