import { type Plan, SwitchyardError } from '@switchyard/proto';

export type ExportFormat = 'sglang' | 'vllm' | 'trtllm';

/**
 * Slots of every worker and layer, as the engines want them: the same number on each, in worker order. Workers that hold fewer experts repeat some of their own, which
 * the engines allow. They repeat those that nobody else holds, so that no row moves because of it; a worker that has none such repeats what it has, and draws somewhat
 * more of those experts' rows than the plan meant.
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
      const alone = held.filter((e) => plan.replicas[l][e].length === 1);
      const repeated = alone.length > 0 ? alone : held;
      return [...held, ...Array.from({ length: slots - held.length }, (_, i) => repeated[i % repeated.length])];
    }),
  );
}

/**
 * A plan for another engine. `sglang`: the JSON of --init-expert-location, whose rows are all hidden layers of the model. `vllm`: the map of the MoE layers under the
 * names of its EPLB state. `trtllm`: the YAML of moe_config.load_balancer, with layers named by their index in the model.
 *
 * @param hiddenLayers of the model, for sglang; by default its last MoE layer is its last layer
 * @throws bad_plan where an engine cannot express the plan, or the model has a MoE layer beyond `hiddenLayers`
 */
export function exportPlan(plan: Plan, format: ExportFormat, hiddenLayers?: number): string {
  const map = slotMap(plan);
  if (format === 'sglang') return `${JSON.stringify({ physical_to_logical_map: everyLayer(plan, map, hiddenLayers) })}\n`;
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

/** The map with a row for every hidden layer. Nobody looks at those of dense layers, but each has to name every expert: there they follow one another. */
function everyLayer({ model: { moeLayers, experts } }: Plan, map: number[][], hiddenLayers: number | undefined): number[][] {
  const last = moeLayers[moeLayers.length - 1];
  if (hiddenLayers !== undefined && hiddenLayers <= last)
    throw new SwitchyardError('bad_plan', `the plan places experts of layer ${last}; a model of ${hiddenLayers} layers has none such`, {
      param: 'hiddenLayers',
    });
  const dense = Array.from(map[0], (_, slot) => slot % experts);
  const rows = new Map(moeLayers.map((layer, l) => [layer, map[l]]));
  return Array.from({ length: hiddenLayers ?? last + 1 }, (_, layer) => rows.get(layer) ?? dense);
}
