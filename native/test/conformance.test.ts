import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { native } from '../src/index.ts';

const isa = (() => {
  const device = native.deviceOpen({ backend: 'cpu', isa: 'auto', threads: 1, cpus: null });
  try {
    return native.deviceDescribe(device).isa;
  } finally {
    native.deviceClose(device);
  }
})();

/** How many numbers it compared, by suite. */
function conforms(program: string, env: NodeJS.ProcessEnv = {}): Map<string, number> {
  const at = fileURLToPath(new URL(program, import.meta.url));
  const run = spawnSync(at, { encoding: 'utf8', timeout: 500_000, env: { ...process.env, ...env } });
  expect(run.error).toBeUndefined();
  // It says whether there was a GPU; every failure would be a line more.
  expect(run.stderr).toMatch(/^with(out a GPU:)? .*\n$/);
  expect(run.status, run.stdout).toBe(0);
  // A suite that compared nothing proves nothing.
  const suites = run.stdout.trim().split('\n');
  expect(suites.length).toBeGreaterThan(10);
  for (const suite of suites) expect(suite).toMatch(/^\w+ +[1-9]\d* compared, 0 failed$/);
  return new Map(suites.map((suite) => suite.split(/ +/)).map(([name, compared]) => [name, Number(compared)]));
}

/** Asked once, by whichever test runs first: each of them runs by itself too. */
let own: Map<string, number> | null = null;
function plain(): Map<string, number> {
  own ??= conforms('../build/conformance');
  return own;
}
test('every instruction set, thread count and GPU, real or emulated, gives the bits of the scalar oracle', () => {
  expect(plain().size).toBeGreaterThan(10);
});

const emulated = 'so do the kernels for AVX-512 on a processor without it, whichever way pairs of bf16 are multiplied';
const canEmulate = isa === 'avx2' || isa === 'avx512';
test.skipIf(!canEmulate)(canEmulate ? emulated : `${emulated} (this one has no AVX2 to emulate them on)`, { timeout: 600_000 }, () => {
  const build = fileURLToPath(new URL('../build.mjs', import.meta.url));
  const built = spawnSync(process.execPath, [build, '--emulate-avx512'], { encoding: 'utf8' });
  expect(built.status, built.stderr).toBe(0);
  const conformsMultiplying = (products: string) => conforms('../build/emulated/conformance', { SWITCHYARD_BF16_PRODUCTS: products });
  const paired = conformsMultiplying('paired');
  // All instruction sets that there are, each of them.
  expect(paired.get('norm')).toBe((isa === 'avx2' ? 2 : 1) * plain().get('norm')!);
  expect(conformsMultiplying('widened')).toEqual(paired);
});

/** Of the suites those that read what others have written or go through all of a buffer, in seconds; `npm run sanitize` runs all. */
const shortSuites = ['source', 'pack', 'rows_wire', 'sum_wire', 'sum_corrupt', 'sum_order', 'combine', 'route', 'norm', 'experts_extreme'];
/** Those of the pool itself, and one whose threads add to sums of their own. */
const sharingSuites = ['pool', 'experts_whole'];
const sanitized = 'nothing is read or written outside memory, and nothing rests on what C++ leaves undefined';
const wanted = process.env.SWITCHYARD_SANITIZE !== undefined;
const why = 'takes minutes to compile: npm run sanitize, or SWITCHYARD_SANITIZE=1, which continuous integration sets';
const raceless = 'threads race nowhere';
function conformsSanitized(suites: string[], ...options: string[]) {
  const sanitize = fileURLToPath(new URL('../../scripts/sanitize.mjs', import.meta.url));
  const run = spawnSync(process.execPath, [sanitize, ...options, ...suites], { encoding: 'utf8' });
  expect(run.status, `${run.stdout}${run.stderr}`).toBe(0);
  for (const suite of suites) expect(run.stdout).toMatch(new RegExp(`^${suite} +[1-9]\\d* compared, 0 failed$`, 'm'));
}
test.skipIf(!wanted)(wanted ? sanitized : `${sanitized} (${why})`, { timeout: 1_200_000 }, () =>
  conformsSanitized(shortSuites, '--addresses'),
);
test.skipIf(!wanted)(wanted ? raceless : `${raceless} (${why})`, { timeout: 1_200_000 }, () =>
  conformsSanitized(sharingSuites, '--threads'),
);
