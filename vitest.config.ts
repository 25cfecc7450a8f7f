import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';

/** `npm run fuzz` (scripts/fuzz.mjs) gives properties seconds instead of runs. */
const fuzzing = process.env.SWITCHYARD_FUZZ_SECONDS !== undefined;
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
    testTimeout: fuzzing ? 3_600_000 : 60_000,
    hookTimeout: 60_000,
    pool: 'forks',
    maxWorkers: 2,
  },
});
