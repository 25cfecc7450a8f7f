import type { Processors } from '@switchyard/proto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { checkedProcessors, processorGroups } from '../src/membership/shared-processors.ts';

const on = (machine: string, cpus: number[], threads: number, ...accelerators: string[]): Processors => ({
  machine,
  cpus,
  threads,
  accelerators,
});

describe('workers share processors', () => {
  it.each([
    ['CPUs of their own', [on('a', [0], 1), on('a', [1], 1)], [0, 1]],
    ['more threads than CPUs', [on('a', [0, 1], 1), on('a', [0, 1], 1), on('a', [0, 1], 1)], [0, 0, 0]],
    ['as many threads as CPUs', [on('a', [0, 1], 1), on('a', [0, 1], 1)], [0, 1]],
    ['some of their CPUs', [on('a', [0, 1], 2), on('a', [1, 2], 2), on('a', [4, 5], 2)], [0, 0, 2]],
    ['equal CPU numbers of other machines', [on('a', [0], 1), on('b', [0], 1)], [0, 1]],
    ['a machine that nobody tells', [on('', [0], 1), on('', [0], 1)], [0, 1]],
    ['one GPU, seen from two machines', [on('a', [0], 1, 'g'), on('b', [0], 1), on('c', [0], 1, 'g')], [0, 1, 0]],
    ['a GPU with one and CPUs with another', [on('a', [0], 1, 'g'), on('a', [1], 1, 'g'), on('a', [1], 1)], [0, 0, 0]],
    ['a place that is empty', [null, on('a', [0], 1), on('a', [0], 1)], [0, 1, 1]],
  ])('%s', (_, workers, groups) => {
    expect(processorGroups(workers)).toEqual(groups);
  });

  it('in groups that do not depend on their order, as the least that the definition asks for', () => {
    const worker = fc.record({
      machine: fc.constantFrom('a', 'b', ''),
      cpus: fc.uniqueArray(fc.nat({ max: 5 }), { maxLength: 3 }),
      threads: fc.integer({ min: 1, max: 3 }),
      accelerators: fc.uniqueArray(fc.constantFrom('g', 'h'), { maxLength: 1 }),
    });
    fc.assert(
      fc.property(fc.array(worker, { maxLength: 7 }), (workers) => {
        const reaching = (related: (a: Processors, b: Processors) => boolean) => {
          const reach = workers.map((a) => workers.map((b) => a === b || related(a, b)));
          for (const k of workers.keys())
            for (const i of workers.keys()) for (const j of workers.keys()) reach[i][j] ||= reach[i][k] && reach[k][j];
          return reach;
        };
        const cpus = (w: Processors) => Array.from(w.cpus);
        const meeting = reaching((a, b) => a.machine !== '' && a.machine === b.machine && cpus(a).some((cpu) => cpus(b).includes(cpu)));
        const crowded = (a: Processors) => {
          const all = workers.filter((_, i) => meeting[workers.indexOf(a)][i]);
          return all.length > 1 && all.reduce((sum, { threads }) => sum + threads, 0) > new Set(all.flatMap(cpus)).size;
        };
        const same = reaching(
          (a, b) =>
            a.accelerators.some((identity) => b.accelerators.includes(identity)) ||
            (meeting[workers.indexOf(a)][workers.indexOf(b)] && crowded(a)),
        );
        expect(processorGroups(workers)).toEqual(workers.map((_, i) => same[i].indexOf(true)));
      }),
    );
  });

  it('by what fits the bounds', () => {
    expect(checkedProcessors(on('a', [0], 1, 'g'))).not.toBeNull();
    expect(checkedProcessors(on('a'.repeat(129), [0], 1))).toBeNull();
    expect(checkedProcessors(on('a', [0], 1, 'g'.repeat(129)))).toBeNull();
    expect(checkedProcessors(on('a', Array(4097).fill(0), 1))).toBeNull();
    expect(checkedProcessors(on('a', [0], 1, ...Array(64).fill('g')))).toBeNull();
  });
});
