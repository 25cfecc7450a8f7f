import type { LayerSearch } from './layer-search.ts';

/**
 * Takes load from the fullest node until it is within `limit` of the mean or nothing helps: of all moves and swaps with it, the one that costs least for what it
 * brings, where a row less on the fullest node is worth `price` visits. Costs are those at the start; experts that moved stay.
 */
export function relieveLayer(
  layer: LayerSearch,
  limit: number,
  price: number,
  hasRoom: (node: number) => boolean,
  onMove: (from: number, to: number) => void,
): void {
  if (layer.peakMean() <= limit) return;
  const { nodes, maskOf } = layer;
  const { replicaExpert, replicaNode, rows } = layer.replicaMoves();
  const touched = new Uint8Array(layer.experts);
  while (layer.peakMean() > limit) {
    layer.findFullest();
    const a = layer.fullest[0];
    const now = layer.pressure(a, 0);
    let best = { score: 0, i: -1, j: -1, to: -1 };
    const consider = (i: number, j: number, b: number, cost: number, change: number) => {
      // Only what leaves the node itself counts: which node is fullest next is seen next.
      const after = Math.max(layer.pressure(a, -change), layer.pressure(b, change));
      const score = ((now - after) * price) / nodes - cost;
      if (after < now && score > best.score) best = { score, i, j, to: b };
    };
    for (let i = 0; i < rows.length; i++) {
      if (replicaNode[i] !== a || touched[replicaExpert[i]] === 1) continue;
      const own = layer.served[replicaExpert[i] * nodes + a];
      for (let b = 0; b < nodes; b++) if (rows[i][b] > -Infinity && hasRoom(b)) consider(i, -1, b, -rows[i][b], own);
      for (let j = 0; j < rows.length; j++) {
        const b = replicaNode[j];
        if (b === a || touched[replicaExpert[j]] === 1 || rows[i][b] === -Infinity || rows[j][a] === -Infinity) continue;
        const other = layer.served[replicaExpert[j] * nodes + b];
        if (other < own) consider(i, j, b, -rows[i][b] - rows[j][a], own - other);
      }
    }
    if (best.i < 0) break;
    const e = replicaExpert[best.i];
    const f = best.j < 0 ? -1 : replicaExpert[best.j];
    layer.apply(e, (maskOf[e] & ~(1 << a)) | (1 << best.to), f, f < 0 ? 0 : (maskOf[f] & ~(1 << best.to)) | (1 << a));
    touched[e] = 1;
    if (f >= 0) touched[f] = 1;
    else onMove(a, best.to);
  }
}
