/**
 * A placement plan: for every (layer, expert) the workers that hold a replica. Immutable; named by its checksum. Files hold one plan as JSON.
 *
 * `replicas[l][e]` lists worker indexes (ascending, no repeats, never empty) for the l-th MoE layer, where `moeLayers[l]` is its index in the model.
 * `workers[w].node` groups workers into nodes. Nothing is divisible by anything.
 */
export interface Plan {
  format: 'switchyard-plan';
  version: 1;
  model: { type: string; moeLayers: number[]; experts: number };
  workers: { name: string; node: number }[];
  replicas: number[][][];
  /** Who made it and what it promises; free of meaning for the runtime. */
  provenance: Record<string, unknown> | null;
}

/** Consecutive ranges of experts over workers, as even as possible: expert e lives on worker floor(e * workers / experts). */
export function contiguousPlan(model: Plan['model'], workers: Plan['workers']): Plan {
  const owner = Array.from({ length: model.experts }, (_, e) => [Math.floor((e * workers.length) / model.experts)]);
  return {
    format: 'switchyard-plan',
    version: 1,
    model,
    workers,
    replicas: model.moeLayers.map(() => owner.map((w) => [...w])),
    provenance: { method: 'contiguous' },
  };
}
