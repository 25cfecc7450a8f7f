import { defineConfig } from 'vitest/config';

// Tests import the packages' sources ("switchyard-source"); processes that tests start run what `npm run build` made.
export default defineConfig({
  resolve: { conditions: ['switchyard-source', 'module', 'node', 'import', 'default'] },
  ssr: { resolve: { conditions: ['switchyard-source', 'module', 'node', 'import', 'default'] } },
  test: {
    include: ['**/test/**/*.test.ts', '**/src/**/*.test.ts'],
    exclude: ['**/node_modules/**', '**/dist/**'],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    pool: 'forks',
    maxWorkers: 2,
  },
});
