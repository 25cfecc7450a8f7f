/**
 * The transportation problem of one layer's best response: items go to bins of given capacities at least cost. Exact, by successive shortest paths over the bins:
 * adding an item may shift others along a chain of bins. (items) x (bins) costs; O(items^2 x bins) at worst, milliseconds at 256 x 64.
 *
 * @param cost     (items, bins)
 * @param capacity (bins), summing to at least the number of items
 * @returns bin of each item, (items)
 */
export function assignToBins(cost: Float64Array, capacity: ArrayLike<number>): Int32Array {
  const bins = capacity.length;
  const items = cost.length / bins;
  const total = Array.from(capacity).reduce((a, b) => a + b, 0);
  if (total < items) throw new RangeError(`assignToBins: ${items} items do not fit capacities that sum to ${total}`);
  const binOf = new Int32Array(items).fill(-1);
  const used = new Int32Array(bins);
  // shift[a][b]: the least cost of moving some item from bin a to bin b, and that item.
  const shiftCost = new Float64Array(bins * bins).fill(Infinity);
  const shiftItem = new Int32Array(bins * bins).fill(-1);
  const members: number[][] = Array.from({ length: bins }, () => []);
  const refresh = (a: number) => {
    for (let b = 0; b < bins; b++) {
      let best = Infinity;
      let who = -1;
      if (a !== b)
        for (const i of members[a]) {
          const c = cost[i * bins + b] - cost[i * bins + a];
          if (c < best) {
            best = c;
            who = i;
          }
        }
      shiftCost[a * bins + b] = best;
      shiftItem[a * bins + b] = who;
    }
  };
  const place = (item: number, bin: number) => {
    if (binOf[item] >= 0) members[binOf[item]].splice(members[binOf[item]].indexOf(item), 1);
    binOf[item] = bin;
    members[bin].push(item);
  };
  const distance = new Float64Array(bins);
  const from = new Int32Array(bins);
  // One for all ways, far above what sums round off: were it larger for dear ways, the shifts left undone there would be gains for cheap ones, in circles.
  const least = 1e-12 * cost.reduce((most, c) => Math.max(most, Math.abs(c)), 0);
  const leadsFrom = (bin: number, to: number): boolean => {
    let b = to;
    while (b >= 0 && b !== bin) b = from[b];
    return b === bin;
  };
  for (let item = 0; item < items; item++) {
    // Shortest way from this item to a bin with room (Bellman-Ford: shift costs may be negative, never in a cycle).
    for (let b = 0; b < bins; b++) {
      distance[b] = capacity[b] > 0 ? cost[item * bins + b] : Infinity;
      from[b] = -1;
    }
    for (let changed = true, round = 0; changed && round < bins; round++) {
      changed = false;
      for (let a = 0; a < bins; a++) {
        if (distance[a] === Infinity || used[a] === 0) continue;
        for (let b = 0; b < bins; b++) {
          const d = distance[a] + shiftCost[a * bins + b];
          if (capacity[b] > 0 && d < distance[b] - least && !leadsFrom(b, a)) {
            distance[b] = d;
            from[b] = a;
            changed = true;
          }
        }
      }
    }
    let end = -1;
    for (let b = 0; b < bins; b++) if (used[b] < capacity[b] && (end < 0 || distance[b] < distance[end])) end = b;
    used[end]++;
    const touched = [end];
    for (let b = end; from[b] >= 0; b = from[b]) {
      place(shiftItem[from[b] * bins + b], b);
      touched.push(from[b]);
    }
    place(item, touched[touched.length - 1]);
    for (const b of touched) refresh(b);
  }
  return binOf;
}
