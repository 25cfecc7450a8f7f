import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';

/** `npm run fuzz` (scripts/fuzz.mjs) gives properties seconds instead of runs. */
const fuzzSeconds = process.env.SWITCHYARD_FUZZ_SECONDS;
const fuzzing = fuzzSeconds !== undefined;
const longer = fileURLToPath(new URL('test/fuzz/longer.ts', import.meta.url));
const longerProperties = {
  name: 'longer-properties',
  enforce: 'pre' as const,
  resolveId: (source: string, importer?: string) => (source === 'fast-check' && importer !== longer ? longer : undefined),
};

// Tests import the packages' sources ("switchyard-source"); processes that tests start run what setup builds, which is therefore done before any test.
export default defineConfig({
  plugins: fuzzing ? [longerProperties] : [],
  resolve: { conditions: ['switchyard-source', 'module', 'node', 'import', 'default'] },
  ssr: { resolve: { conditions: ['switchyard-source', 'module', 'node', 'import', 'default'] } },
  test: {
    include: ['**/test/**/*.test.ts', '**/src/**/*.test.ts'],
    exclude: ['**/node_modules/**', '**/dist/**'],
    globalSetup: 'test/up-to-date.ts',
    // A test may have several properties.
    testTimeout: 60_000 + 5_000 * Number(fuzzSeconds ?? 0),
    hookTimeout: 60_000,
    pool: 'forks',
    maxWorkers: 2,
  },
});
