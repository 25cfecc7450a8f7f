import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { checkedMemories, memoryGroups } from '../src/membership/shared-memory.ts';

describe('workers that share memory', () => {
  it.each([
    ['have one in common', [['a'], ['b'], ['a']], [0, 1, 0]],
    ['by way of another', [['a'], ['b'], ['a', 'b']], [0, 0, 0]],
    ['whoever comes first', [['b'], ['a'], ['a', 'c'], ['c', 'b']], [0, 0, 0, 0]],
    ['are none that tell of nothing', [[], [], ['a']], [0, 1, 2]],
  ])('%s', (_, memories, groups) => {
    expect(memoryGroups(memories)).toEqual(groups);
  });

  it('are exactly those that others connect', () => {
    const names = fc.uniqueArray(fc.constantFrom(...'abcdef'), { maxLength: 3 });
    fc.assert(
      fc.property(fc.array(names, { maxLength: 8 }), (memories) => {
        const reach = memories.map((a, i) => memories.map((b, j) => i === j || a.some((name) => b.includes(name))));
        for (const k of memories.keys())
          for (const i of memories.keys()) for (const j of memories.keys()) reach[i][j] ||= reach[i][k] && reach[k][j];
        expect(memoryGroups(memories)).toEqual(reach.map((row) => row.indexOf(true)));
      }),
    );
  });

  it('say so within bounds', () => {
    expect(checkedMemories(['a', 'b'])).toEqual(['a', 'b']);
    for (const most of [['a'.repeat(128)], Array<string>(1024).fill('a')]) expect(checkedMemories(most)).toEqual(most);
    expect(checkedMemories(['a'.repeat(129)])).toEqual([]);
    expect(checkedMemories(Array(1025).fill('a'))).toEqual([]);
  });
});
