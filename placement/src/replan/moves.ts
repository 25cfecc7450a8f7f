import { type Plan, SwitchyardError } from '@switchyard/proto';

/** One replica copied to a worker. `from` is the nearest worker that already holds the expert: same node if there is one. */
export interface Copy {
  layer: number;
  expert: number;
  from: number;
  to: number;
}

export interface PlanDiff {
  copies: Copy[];
  drops: { layer: number; expert: number; worker: number }[];
  /** Bytes to copy, in all and between nodes. */
  bytes: number;
  interNodeBytes: number;
}

/** What must be copied and dropped to get from one plan to another. @throws bad_plan where their shapes differ */
export function diffPlans(from: Plan, to: Plan, expertBytes: number): PlanDiff {
  checkSameShape(from, to);
  const diff: PlanDiff = { copies: [], drops: [], bytes: 0, interNodeBytes: 0 };
  from.replicas.forEach((layerReplicas, layer) => {
    layerReplicas.forEach((before, expert) => {
      const after = to.replicas[layer][expert];
      for (const worker of before) if (!after.includes(worker)) diff.drops.push({ layer, expert, worker });
      for (const worker of after) {
        if (before.includes(worker)) continue;
        const node = to.workers[worker].node;
        const source = before.find((w) => from.workers[w].node === node) ?? before[0];
        diff.copies.push({ layer, expert, from: source, to: worker });
        diff.bytes += expertBytes;
        if (from.workers[source].node !== node) diff.interNodeBytes += expertBytes;
      }
    });
  });
  return diff;
}

export function checkSameShape(a: Plan, b: Plan): void {
  if (a.workers.length !== b.workers.length || a.replicas.length !== b.replicas.length || a.model.experts !== b.model.experts)
    throw new SwitchyardError(
      'bad_plan',
      `plans differ in shape: ${a.workers.length} workers, ${a.replicas.length} layers, ${a.model.experts} experts against ${b.workers.length}, ${b.replicas.length}, ${b.model.experts}`,
      { param: 'plan' },
    );
}
