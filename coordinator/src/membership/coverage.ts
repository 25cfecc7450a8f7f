import type { Plan } from '@switchyard/proto';

/** (layer, expert) pairs of the plan that none of the given workers holds. */
export function uncoveredExperts(plan: Plan, serving: ReadonlySet<number>): number {
  let uncovered = 0;
  for (const layer of plan.replicas) for (const workers of layer) if (!workers.some((worker) => serving.has(worker))) uncovered++;
  return uncovered;
}
