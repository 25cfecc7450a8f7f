import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { openTrace, place, prove, verifyCertificate } from '../src/index.ts';
import { testTopology } from './slice.ts';

it('the worked example of docs/placement.md runs and prints what it says', async () => {
  const text = readFileSync(new URL('../../docs/placement.md', import.meta.url), 'utf8');
  const [, code, printed] = /```ts\n([\s\S]*?)```\nprints `([^`]*)`/.exec(text) ?? [];
  const lines: string[] = [];
  const fixture = new URL('./fixtures/gpt-oss-20b-slice.trace.gz', import.meta.url).pathname;
  const body = code.replace(/^import .*\n/, '').replace("'gpt-oss-20b-slice.trace.gz'", JSON.stringify(fixture));
  const AsyncFunction = (async () => {}).constructor as new (...args: string[]) => (...values: unknown[]) => Promise<void>;
  const run = new AsyncFunction('openTrace', 'place', 'prove', 'verifyCertificate', 'topology', 'console', body);
  await run(openTrace, place, prove, verifyCertificate, testTopology(4, 1, 400), {
    log: (...values: unknown[]) => lines.push(values.join(' ')),
  });
  expect(lines).toEqual([printed]);
});
