import type { Processors } from '@switchyard/proto';
import { bounds } from '../bounds.ts';

/**
 * Which workers wait for the same processors: those with one GPU, and those of one machine that may run on the same CPUs and have more threads together than there
 * are. Two pods that may both run on all of a machine's CPUs, with threads for half of them each, share none. Workers that do not tell share with nobody.
 *
 * @returns of each worker the lowest number of those that it shares with, its own where there is none
 */
export function processorGroups(workers: readonly (Processors | null)[]): number[] {
  const shared = new DisjointSets(workers.length);
  const overlapping = new DisjointSets(workers.length);
  const firstOn = new Map<string, number>();
  const meet = (sets: DisjointSets, what: string, worker: number) => {
    const first = firstOn.get(what);
    if (first === undefined) firstOn.set(what, worker);
    else sets.join(first, worker);
  };
  const cpusOf = workers.map((processors) => (processors === null || processors.machine === '' ? [] : Array.from(processors.cpus)));
  for (const [worker, processors] of workers.entries()) {
    for (const identity of processors?.accelerators ?? []) meet(shared, `accelerator ${identity}`, worker);
    for (const cpu of cpusOf[worker]) meet(overlapping, `${cpu} of ${processors!.machine}`, worker);
  }
  for (const together of overlapping.all()) {
    const threads = together.reduce((sum, worker) => sum + (workers[worker]?.threads ?? 0), 0);
    if (threads > new Set(together.flatMap((worker) => cpusOf[worker])).size)
      for (const worker of together) shared.join(together[0], worker);
  }
  return workers.map((_, worker) => shared.find(worker));
}

/** What a worker says of its processors, within bounds: beyond them it is taken to have told nothing. */
export function checkedProcessors(said: Processors): Processors | null {
  const { machine, cpus, accelerators } = said;
  const names = [machine, ...accelerators];
  const fits =
    cpus.length <= bounds.cpusMax && names.length <= bounds.acceleratorsMax && names.every(({ length }) => length <= bounds.nameCharsMax);
  return fits ? said : null;
}

/** The lowest member names its set. */
class DisjointSets {
  readonly #parent: number[];

  constructor(count: number) {
    this.#parent = Array.from({ length: count }, (_, i) => i);
  }

  find(member: number): number {
    let root = member;
    while (this.#parent[root] !== root) root = this.#parent[root];
    for (let at = member; at !== root; ) {
      const next = this.#parent[at];
      this.#parent[at] = root;
      at = next;
    }
    return root;
  }

  join(a: number, b: number): void {
    const [low, high] = [this.find(a), this.find(b)].sort((x, y) => x - y);
    this.#parent[high] = low;
  }

  /** Sets of two and more, members in order. */
  all(): number[][] {
    const sets = new Map<number, number[]>();
    for (const member of this.#parent.keys()) {
      const root = this.find(member);
      const set = sets.get(root);
      if (set === undefined) sets.set(root, [member]);
      else set.push(member);
    }
    return [...sets.values()].filter(({ length }) => length > 1);
  }
}
