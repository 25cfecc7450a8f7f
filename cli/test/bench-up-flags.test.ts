import { describe, expect, it } from 'vitest';
import { boundToItsWorkers, checkUpFlags, withShape } from '../src/commands/bench-up-flags.ts';

describe('flags for the server that a benchmark starts', () => {
  it('keep the numbers of nodes and workers that they do not name', () => {
    expect(withShape(1, 2, [])).toEqual(['--nodes', '1', '--workers-per-node', '2']);
    // The last of two counts.
    expect(withShape(1, 2, ['--model', 'DIR', '--nodes', '3'])).toEqual([
      ...['--nodes', '1', '--workers-per-node', '2'],
      ...['--model', 'DIR', '--nodes', '3'],
    ]);
  });

  it('are left alone beside a plan, which names its workers', () => {
    for (const flags of [['--plan', 'plan.json'], ['--plan=plan.json']]) expect(withShape(1, 2, flags)).toEqual(flags);
  });

  it('begin with a dash: a word is a subcommand that there is not', () => {
    expect(() => checkUpFlags(['exakt'])).toThrow(/bench has no exakt: there are serve, exact, quality, calibrate/);
    expect(() => checkUpFlags(['exakt'])).toThrow(expect.objectContaining({ status: 2 }));
    checkUpFlags([]);
    checkUpFlags(['--nodes', '2']);
  });

  it('may bind a server to the workers that it has', () => {
    expect(boundToItsWorkers(['--nodes', '4', '--lossy', 'wire=int8'])).toBeNull();
    expect(boundToItsWorkers(['--plan', 'plan.json'])).toMatch(/--plan/);
    expect(boundToItsWorkers(['--plan=plan.json'])).toMatch(/--plan/);
    expect(boundToItsWorkers(['--nodes', '4', '--lossy', 'wire=int8,node-limit=2'])).toMatch(/node-limit/);
    expect(boundToItsWorkers(['--lossy=node-limit=2'])).toMatch(/node-limit/);
  });
});
