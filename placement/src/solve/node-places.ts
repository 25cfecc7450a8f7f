/**
 * Which node's place each cluster of sequences and experts should take, so that those that visit one another much are near: exchanges of two until none makes the
 * visits cheaper.
 *
 * @param visits    from each cluster's homes to each other cluster, (nodes, nodes)
 * @param linkPrice of a visit between places, (nodes, nodes)
 * @param alike     true if two places may be exchanged: same memory, same speed
 * @returns place of each cluster, (nodes)
 */
export function nearestPlaces(
  visits: Float64Array,
  linkPrice: Float64Array,
  nodes: number,
  alike: (a: number, b: number) => boolean,
): number[] {
  const at = Array.from({ length: nodes }, (_, n) => n);
  const cost = () => {
    let sum = 0;
    for (let a = 0; a < nodes; a++) for (let b = 0; b < nodes; b++) sum += visits[a * nodes + b] * linkPrice[at[a] * nodes + at[b]];
    return sum;
  };
  let best = cost();
  for (let improved = true; improved; ) {
    improved = false;
    for (let a = 0; a < nodes; a++)
      for (let b = a + 1; b < nodes; b++) {
        if (!alike(at[a], at[b])) continue;
        [at[a], at[b]] = [at[b], at[a]];
        const now = cost();
        if (now < best * (1 - 1e-9)) {
          best = now;
          improved = true;
        } else [at[a], at[b]] = [at[b], at[a]];
      }
  }
  return at;
}
