import { describe, expect, it } from 'vitest';
import { switchyard } from './program.ts';

describe('bench', () => {
  it('starts no server for a subcommand that there is not', async () => {
    const { status, stdout, stderr } = await switchyard(['bench', 'exakt']);
    expect(stderr).toMatch(/^error: bench has no exakt: there are serve, exact, quality, calibrate/);
    expect([status, stdout]).toEqual([2, '']);
  });

  it('passes on what its server prints instead of serving', async () => {
    const { status, stdout, stderr } = await switchyard(['bench', 'serve', '--', '--help']);
    expect(stderr).toMatch(/Usage: switchyard up/);
    expect(stderr).toMatch(/error: the server exited with status 0 before it was ready/);
    expect(stderr).not.toMatch(/ at .*\.js:/);
    expect([status, stdout]).toEqual([1, '']);
  });
});
