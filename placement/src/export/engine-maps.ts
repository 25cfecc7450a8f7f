import { type Plan, SwitchyardError } from '@switchyard/proto';

export type ExportFormat = 'sglang' | 'vllm' | 'trtllm';

/**
 * Slots of every worker and layer, as the engines want them: the same number on each, in worker order. Workers that hold fewer experts repeat one of their own (the
 * engines allow it, and no row moves because of it), so this is lossless.
 *
 * @returns expert of each slot, [layer][slot]
 */
export function slotMap(plan: Plan): number[][] {
  const perWorker = plan.replicas.map((layer) => {
    const held: number[][] = plan.workers.map(() => []);
    layer.forEach((workers, e) => {
      for (const w of workers) held[w].push(e);
    });
    return held;
  });
  const slots = perWorker.flat().reduce((most, held) => Math.max(most, held.length), 0);
  return perWorker.map((workers, l) =>
    workers.flatMap((held, w) => {
      if (held.length === 0)
        throw new SwitchyardError(
          'bad_plan',
          `layer ${plan.model.moeLayers[l]}: worker ${w} (${plan.workers[w].name}) holds no expert, which the engines cannot express`,
          {
            param: 'plan',
          },
        );
      return Array.from({ length: slots }, (_, i) => held[i % held.length]);
    }),
  );
}

/**
 * A plan for another engine. `sglang`: the JSON of --init-expert-location. `vllm`: the same map under the names of its EPLB state. `trtllm`: the YAML of
 * moe_config.load_balancer, with layers named by their index in the model.
 */
export function exportPlan(plan: Plan, format: ExportFormat): string {
  const map = slotMap(plan);
  if (format === 'sglang') return `${JSON.stringify({ physical_to_logical_map: map })}\n`;
  if (format === 'vllm') {
    const replicas = map.map((layer) => {
      const count = new Array<number>(plan.model.experts).fill(0);
      for (const e of layer) count[e]++;
      return count;
    });
    return `${JSON.stringify({ num_redundant_experts: map[0].length - plan.model.experts, physical_to_logical_map: map, logical_replica_count: replicas })}\n`;
  }
  const lines = map.map((layer, l) => `  ${plan.model.moeLayers[l]}: [${layer.join(', ')}]`);
  return `num_slots: ${map[0].length}\nlayer_updates_per_iter: 0\ninitial_global_assignments:\n${lines.join('\n')}\n`;
}
