import type { LayerSearch } from './layer-search.ts';

/**
 * Moves a replica from node a to b in one layer and another from b to a in any other: a layer may then hold more experts on one node than on another, while every
 * node's memory stays as full as it was. Pairs the best moves of each direction. Returns what it gained.
 */
export function exchangeMoves(layers: readonly LayerSearch[], stop: () => boolean): number {
  if (stop()) return 0;
  const { nodes, experts } = layers[0];
  // A move that loses may still pay with its counterpart; below this it hardly can.
  const least = (-layers.reduce((sum, layer) => sum + layer.objective(), 0) / (layers.length * experts)) * 2;
  const byWay: { l: number; e: number; gain: number }[][] = Array.from({ length: nodes * nodes }, () => []);
  layers.forEach((layer, l) => {
    for (const { e, from, to, gain } of layer.moves(least)) byWay[from * nodes + to].push({ l, e, gain });
  });
  for (const list of byWay) list.sort((x, y) => y.gain - x.gain || x.l - y.l || x.e - y.e);
  const touched = new Set<number>();
  let gained = 0;
  const move = (l: number, e: number, from: number, to: number) => {
    const layer = layers[l];
    const before = layer.objective();
    layer.apply(e, (layer.maskOf[e] & ~(1 << from)) | (1 << to), -1, 0);
    return before - layer.objective();
  };
  for (let a = 0; a < nodes; a++)
    for (let b = a + 1; b < nodes; b++) {
      const there = byWay[a * nodes + b];
      const back = byWay[b * nodes + a];
      for (let i = 0, j = 0, failed = 0; i < there.length && j < back.length && failed < 12; ) {
        if (stop()) return gained;
        const x = there[i];
        const y = back[j];
        if (x.gain + y.gain <= 0) break;
        // One change per layer and pass: the estimates of a layer are stale after it.
        if (touched.has(x.l)) {
          i++;
          continue;
        }
        if (touched.has(y.l) || x.l === y.l) {
          j++;
          continue;
        }
        const gain = move(x.l, x.e, a, b) + move(y.l, y.e, b, a);
        if (gain > 1e-9) {
          gained += gain;
          touched.add(x.l).add(y.l);
          i++;
          j++;
          failed = 0;
        } else {
          move(x.l, x.e, b, a);
          move(y.l, y.e, a, b);
          failed++;
          if (x.gain < y.gain) i++;
          else j++;
        }
      }
    }
  return gained;
}
