import type { Plan } from '@switchyard/proto';
import { randomStream } from '../load/random-stream.ts';

/**
 * A plan that no optimizer would make: every expert on a random worker, every third one with replicas on others besides. If the answers are the same here,
 * they do not depend on where experts live.
 */
export function scatteredPlan(model: Plan['model'], nodes: number, workersPerNode: number, seed: number): Plan {
  const random = randomStream(seed);
  const count = nodes * workersPerNode;
  const workers = Array.from({ length: count }, (_, w) => ({
    name: `n${Math.floor(w / workersPerNode)}w${w % workersPerNode}`,
    node: Math.floor(w / workersPerNode),
  }));
  const draw = (): number[] => {
    const holders = new Set([Math.floor(random() * count)]);
    if (random() < 1 / 3) holders.add(Math.floor(random() * count)).add(Math.floor(random() * count));
    return [...holders].sort((a, b) => a - b);
  };
  return {
    format: 'switchyard-plan',
    version: 1,
    model,
    workers,
    replicas: model.moeLayers.map(() => Array.from({ length: model.experts }, draw)),
    provenance: { method: 'scattered', seed },
  };
}
