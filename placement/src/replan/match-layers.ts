import type { Plan } from '@switchyard/proto';
import type { Cluster } from '../cluster/cluster.ts';
import { assignToBins } from '../solve/transportation.ts';
import { checkSameShape } from './moves.ts';

/**
 * Lets workers of one node trade what they hold in single layers so that least has to move from `current`: where they are equally fast and hold equally many of the
 * layer's experts, neither memory nor balance changes. Exact, an assignment for each node and layer. Not for plans of the chain model, whose tokens stay on a worker
 * from layer to layer.
 */
export function matchLayers(target: Plan, current: Plan, { nodes, nodeOf, speedOf, workers }: Cluster): Plan {
  checkSameShape(target, current);
  const inNode = Array.from({ length: nodes }, (_, n) => workers.map((_, w) => w).filter((w) => nodeOf[w] === n));
  const replicas = target.replicas.map((layer, l) => {
    const count = new Int32Array(workers.length);
    for (const own of layer) for (const w of own) count[w]++;
    const workerOf = Int32Array.from(workers, (_, w) => w);
    for (const alike of inNode.flatMap((own) => groupsBy(own, (w) => `${count[w]} ${speedOf[w]}`))) {
      const numberOf = new Map(alike.map((w, i) => [w, i]));
      const kept = new Float64Array(alike.length ** 2);
      layer.forEach((own, e) => {
        for (const a of own)
          for (const b of current.replicas[l][e])
            if (numberOf.has(a) && numberOf.has(b)) kept[numberOf.get(a)! * alike.length + numberOf.get(b)!]--;
      });
      assignToBins(kept, new Int32Array(alike.length).fill(1)).forEach((to, i) => {
        workerOf[alike[i]] = alike[to];
      });
    }
    return layer.map((own) => own.map((w) => workerOf[w]).sort((a, b) => a - b));
  });
  return { ...target, replicas };
}

function groupsBy<T>(list: readonly T[], keyOf: (item: T) => string): T[][] {
  const groups = new Map<string, T[]>();
  for (const item of list) {
    const group = groups.get(keyOf(item));
    if (group === undefined) groups.set(keyOf(item), [item]);
    else group.push(item);
  }
  return [...groups.values()].filter((group) => group.length > 1);
}
