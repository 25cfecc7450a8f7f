import { type Plan, SwitchyardError } from '@switchyard/proto';
import type { ModelShape } from './contract.ts';

/** hosted[i]: the experts of MoE layer i that a plan gives to a worker. */
export function hostedBy(plan: Plan, worker: number): number[][] {
  return plan.replicas.map((experts) => experts.flatMap((holders, e) => (holders.includes(worker) ? [e] : [])));
}

/** Throws `bad_plan` unless the plan covers every expert of the model with workers that exist. */
export function requirePlanFits(plan: Plan, shape: Pick<ModelShape, 'moeLayers' | 'experts'>): void {
  const refuse = (problem: string) => new SwitchyardError('bad_plan', `plan ${problem}`, { param: 'replicas' });
  if (plan.workers.length === 0) throw refuse('has no workers');
  if (plan.replicas.length !== shape.moeLayers.length)
    throw refuse(`has ${plan.replicas.length} layers, the model ${shape.moeLayers.length} with experts`);
  plan.replicas.forEach((experts, i) => {
    if (experts.length !== shape.experts)
      throw refuse(`places ${experts.length} experts in MoE layer ${i}, the model has ${shape.experts}`);
    experts.forEach((holders, e) => {
      if (holders.length === 0) throw refuse(`places expert ${e} of MoE layer ${i} nowhere`);
      const stranger = holders.find((w) => !Number.isSafeInteger(w) || w < 0 || w >= plan.workers.length);
      if (stranger !== undefined)
        throw refuse(`places expert ${e} of MoE layer ${i} on worker ${stranger}; workers are 0 to ${plan.workers.length - 1}`);
    });
  });
}
