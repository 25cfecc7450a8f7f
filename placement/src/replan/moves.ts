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

/** What must be copied and dropped to get from one plan to another. @throws bad_plan where they are not plans of the same layers, experts and workers */
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

/** What the numbers in a plan's `replicas` stand for. */
export interface PlanShape {
  model: { moeLayers: readonly number[]; experts: number };
  workers: readonly { name: string; node: number }[];
}

/**
 * Replicas are compared by index, which means something only where layers and workers are the same, in the same order. The type of the model is not compared: not
 * every trace names it.
 *
 * @throws bad_plan naming the first difference
 */
export function checkSameShape(a: PlanShape, b: PlanShape): void {
  const differ = (field: string, of: string | number, against: string | number): never => {
    throw new SwitchyardError(
      'bad_plan',
      `the plan is for other layers or workers: ${field} is ${JSON.stringify(of)}, must be ${JSON.stringify(against)}`,
      {
        param: 'plan',
      },
    );
  };
  if (a.model.experts !== b.model.experts) differ('model.experts', a.model.experts, b.model.experts);
  if (a.model.moeLayers.length !== b.model.moeLayers.length)
    differ('model.moeLayers.length', a.model.moeLayers.length, b.model.moeLayers.length);
  for (const [l, layer] of a.model.moeLayers.entries())
    if (layer !== b.model.moeLayers[l]) differ(`model.moeLayers[${l}]`, layer, b.model.moeLayers[l]);
  if (a.workers.length !== b.workers.length) differ('workers.length', a.workers.length, b.workers.length);
  for (const [w, worker] of a.workers.entries())
    for (const field of ['name', 'node'] as const)
      if (worker[field] !== b.workers[w][field]) differ(`workers[${w}].${field}`, worker[field], b.workers[w][field]);
}

/** The plan with its workers in the given order, where they are the same but for that; any other plan as it is. */
export function inWorkerOrder(plan: Plan, workers: PlanShape['workers']): Plan {
  const at = new Map(workers.map(({ name }, w) => [name, w]));
  const to = plan.workers.map(({ name }) => at.get(name));
  if (plan.workers.length !== workers.length || to.some((w) => w === undefined)) return plan;
  const replicas = plan.replicas.map((layer) => layer.map((own) => own.map((w) => to[w]!).sort((x, y) => x - y)));
  const ordered = [...plan.workers];
  plan.workers.forEach((worker, w) => {
    ordered[to[w]!] = worker;
  });
  return { ...plan, workers: ordered, replicas };
}

/** Replicas of all layers and experts. */
export function replicaCount({ replicas }: Pick<Plan, 'replicas'>): number {
  return replicas.reduce((sum, layer) => sum + layer.reduce((n, own) => n + own.length, 0), 0);
}
