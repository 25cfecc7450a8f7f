import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { errorCatalogue, SwitchyardError } from '../src/index.ts';

/** Rows of the table in docs/errors.md: code, status, type, retry. */
const documented = readFileSync(new URL('../../docs/errors.md', import.meta.url), 'utf8')
  .split('\n')
  .map((line) => /^\| `(\w+)` \| (\d+) \| `(\w+)` \| (yes|no) \| (.+) \|$/.exec(line))
  .filter((row) => row !== null)
  .map(([, code, status, type, retry]) => [code, { status: Number(status), type, retry: retry === 'yes' }] as const);

describe('docs/errors.md', () => {
  it('documents every code, as it is', () => {
    for (const [code, entry] of Object.entries(errorCatalogue)) expect(Object.fromEntries(documented)[code], code).toEqual(entry);
  });

  it('documents no code that does not exist, and none twice', () => {
    expect(documented.map(([code]) => code)).toEqual(Object.keys(errorCatalogue));
  });
});

describe('SwitchyardError', () => {
  it('keeps code, field and cause', () => {
    const cause = new Error('below');
    const error = new SwitchyardError('bad_plan', 'message', { param: 'workers', cause });
    expect(error).toMatchObject({ name: 'SwitchyardError', code: 'bad_plan', message: 'message', param: 'workers', cause });
    expect(new SwitchyardError('internal', 'x').param).toBeNull();
  });
});
