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
  const { nodes, maskOf, loads } = layer;
  const { count, expertOf, nodeOf, gain } = layer.replicaMoves();
  const touched = new Uint8Array(layer.experts);
  const servedOf = new Float64Array(count);
  const mostOf = Float64Array.from(nodeOf, (_, i) => gain.subarray(i * nodes, (i + 1) * nodes).reduce((a, b) => Math.max(a, b), -Infinity));
  while (layer.peakMean() > limit) {
    const a = loads.fullestNode();
    const now = loads.pressure(a);
    for (let i = 0; i < count; i++) servedOf[i] = touched[expertOf[i]] === 1 ? Infinity : layer.served[expertOf[i] * nodes + nodeOf[i]];
    // What leaves the node is worth this at most, a row.
    const rowWorth = (price * loads.pressurePerRow(a)) / nodes;
    let backMost = 0;
    for (let j = 0; j < count; j++) backMost = Math.max(backMost, gain[j * nodes + a]);
    let best = { score: 0, i: -1, j: -1, to: -1 };
    const consider = (i: number, j: number, b: number, visits: number, change: number) => {
      // Only what leaves the node itself counts: which node is fullest next is seen next.
      const after = Math.max(loads.pressure(a, -change), loads.pressure(b, change));
      const score = ((now - after) * price) / nodes + visits;
      if (after < now && score > best.score) best = { score, i, j, to: b };
    };
    for (let i = 0; i < count; i++) {
      const own = servedOf[i];
      if (nodeOf[i] !== a || own === Infinity || own * rowWorth + mostOf[i] + backMost <= best.score) continue;
      for (let b = 0; b < nodes; b++) if (gain[i * nodes + b] > -Infinity && hasRoom(b)) consider(i, -1, b, gain[i * nodes + b], own);
      for (let j = 0; j < count; j++) {
        const change = own - servedOf[j];
        const b = nodeOf[j];
        if (change <= 0 || b === a) continue;
        const visits = gain[i * nodes + b] + gain[j * nodes + a];
        if (visits + change * rowWorth > best.score) consider(i, j, b, visits, change);
      }
    }
    if (best.i < 0) break;
    const e = expertOf[best.i];
    const f = best.j < 0 ? -1 : expertOf[best.j];
    layer.apply(e, (maskOf[e] & ~(1 << a)) | (1 << best.to), f, f < 0 ? 0 : (maskOf[f] & ~(1 << best.to)) | (1 << a));
    touched[e] = 1;
    if (f >= 0) touched[f] = 1;
    else onMove(a, best.to);
  }
}
