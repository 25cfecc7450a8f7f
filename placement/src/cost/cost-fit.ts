/**
 * What each unit of several kinds of work costs, by measurements: costs[c] so that y[i] is about the sum of columns[c][i] x costs[c]. What is off is weighed by the
 * measurement's scale, so that short ones count as much as long ones; no cost is below 0.
 *
 * @param columns amounts of each kind of work, (kinds, measurements); few kinds: every subset is tried
 * @param y seconds, (measurements)
 * @param scale above 0; what a part was read from may be large beside it, and is as uncertain as that, (measurements)
 */
export function fitCosts(columns: readonly (readonly number[])[], y: readonly number[], scale: readonly number[] = y): number[] {
  const relative = columns.map((column) => column.map((amount, i) => amount / scale[i]));
  const target = y.map((seconds, i) => seconds / scale[i]);
  let best = { error: Infinity, costs: columns.map(() => 0) };
  for (let mask = 1; mask < 1 << columns.length; mask++) {
    const used = columns.map((_, c) => c).filter((c) => mask & (1 << c));
    const solved = solve(
      used.map((a) => used.map((b) => dot(relative[a], relative[b]))),
      used.map((a) => dot(relative[a], target)),
    );
    if (solved === null || solved.some((cost) => cost < 0)) continue;
    const costs = columns.map((_, c) => (used.includes(c) ? solved[used.indexOf(c)] : 0));
    const error = target.reduce((sum, t, i) => sum + (t - relative.reduce((s, column, c) => s + column[i] * costs[c], 0)) ** 2, 0);
    if (error < best.error) best = { error, costs };
  }
  return best.costs;
}

const dot = (a: readonly number[], b: readonly number[]) => a.reduce((sum, v, i) => sum + v * b[i], 0);

/** Gaussian elimination of a symmetric system; null where there is no single solution. */
function solve(matrix: number[][], right: number[]): number[] | null {
  const rows = matrix.map((row, i) => [...row, right[i]]);
  const size = rows.length;
  const scale = matrix.map((row, i) => row[i]);
  for (let i = 0; i < size; i++) {
    let pivot = i;
    for (let r = i + 1; r < size; r++) if (Math.abs(rows[r][i]) > Math.abs(rows[pivot][i])) pivot = r;
    if (!(Math.abs(rows[pivot][i]) > 1e-12 * scale[i])) return null;
    [rows[i], rows[pivot]] = [rows[pivot], rows[i]];
    for (let r = 0; r < size; r++) {
      if (r === i) continue;
      const factor = rows[r][i] / rows[i][i];
      for (let c = i; c <= size; c++) rows[r][c] -= factor * rows[i][c];
    }
  }
  return rows.map((row, i) => row[size] / row[i]);
}
