import { bounds } from '../bounds.ts';

/**
 * Which workers read their weights from the same memory, at one another's cost. Workers that tell of none share with nobody.
 *
 * @param memories of each worker, by names that are the same wherever they are seen
 * @returns of each worker the lowest number of those that it shares with, its own where there is none
 */
export function memoryGroups(memories: readonly (readonly string[])[]): number[] {
  const parent = memories.map((_, worker) => worker);
  const find = (worker: number): number => {
    while (parent[worker] !== worker) worker = parent[worker];
    return worker;
  };
  const firstOf = new Map<string, number>();
  for (const [worker, names] of memories.entries())
    for (const name of names) {
      const [low, high] = [find(firstOf.get(name) ?? worker), find(worker)].sort((a, b) => a - b);
      parent[high] = low;
      firstOf.set(name, low);
    }
  return parent.map((_, worker) => find(worker));
}

/** What a worker says, within bounds: beyond them it is taken to have told nothing. */
export function checkedMemories(names: readonly string[]): readonly string[] {
  return names.length <= bounds.memoriesMax && names.every(({ length }) => length <= bounds.nameCharsMax) ? names : [];
}
