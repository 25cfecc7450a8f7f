import type { Cluster } from '../cluster/cluster.ts';
import type { Random } from '../random.ts';
import { runThrough, type Steps } from '../steps.ts';
import { balanceLoads } from './load-balance.ts';

/**
 * Second level: inside each node, spreads the node's experts over its workers so that no worker of a layer stands out, and fills the node's free memory with second
 * copies of what is still too heavy for one worker. Every layer takes its slots in proportion to the workers' memory, the fractions carried over to later layers.
 *
 * @param masks  nodes that hold each expert, (layers) of (experts)
 * @param served rows that each expert serves on each node, (layers) of (experts, nodes)
 * @returns workers of each expert, ascending, [layer][expert]
 */
export function placeInsideNodes(...given: Parameters<typeof placeInsideNodesSteps>): number[][][] {
  return runThrough(placeInsideNodesSteps(...given));
}

/** The same, layer by layer. */
export function* placeInsideNodesSteps(
  masks: readonly Int32Array[],
  served: readonly Float64Array[],
  cluster: Cluster,
  random: Random,
  effort: number,
  stop: () => boolean,
  replicasMax = Infinity,
): Steps<number[][][]> {
  const layers = masks.length;
  const experts = masks[0].length;
  const replicas: number[][][] = masks.map((layer) => Array.from(layer, () => []));
  for (let n = 0; n < cluster.nodes; n++) {
    const workers = cluster.workers.map((_, w) => w).filter((w) => cluster.nodeOf[w] === n);
    const memory = Int32Array.from(workers, (w) => cluster.slotsOf[w]);
    const room = memory.reduce((a, b) => a + b, 0);
    const given = new Int32Array(workers.length);
    let taken = 0;
    const members = masks.map((layer) => {
      const list: number[] = [];
      for (let e = 0; e < experts; e++) if ((layer[e] >>> n) & 1) list.push(e);
      return list;
    });
    const needed = members.reduce((sum, list) => sum + list.length, 0);
    let spare = Math.min(room - needed, Math.floor(replicasMax / cluster.nodes));
    for (let l = 0; l < layers; l++) {
      const list = members[l];
      // Spare slots are dealt out evenly over the layers to come; a layer cannot use more than one replica per worker and expert.
      const extra = Math.max(0, Math.min(Math.floor(spare / (layers - l)), list.length * (workers.length - 1)));
      spare -= extra;
      const slots = new Int32Array(workers.length);
      taken += list.length + extra;
      const lack = (w: number) => (memory[w] * taken) / room - given[w];
      for (let i = 0; i < list.length + extra; i++) {
        let best = -1;
        for (let w = 0; w < workers.length; w++)
          if (slots[w] < list.length && given[w] < memory[w] && (best < 0 || lack(w) > lack(best))) best = w;
        if (best < 0) break;
        slots[best]++;
        given[best]++;
      }
      if (list.length === 0) continue;
      const loads = Float64Array.from(list, (e) => served[l][e * cluster.nodes + n]);
      const speed = Float64Array.from(workers, (w) => cluster.speedOf[w]);
      const { workersOf } = balanceLoads({ loads, slots, speed }, random, effort, null, stop);
      workersOf.forEach((own, i) => {
        for (const w of own) replicas[l][list[i]].push(workers[w]);
      });
      yield;
    }
  }
  for (const layer of replicas) for (const list of layer) list.sort((a, b) => a - b);
  return replicas;
}
