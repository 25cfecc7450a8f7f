import { type LinearProgram, ProgramBuilder } from './program.ts';

/** One layer's node-level problem with given homes, small enough to list its tokens. */
export interface FanOutLayer {
  experts: number;
  /** Experts each node may hold, (nodes). */
  slots: readonly number[];
  /** Experts, home node and weight of every distinct token. */
  tokens: readonly { experts: readonly number[]; home: number; weight: number }[];
}

/**
 * Exact program of the fan-out model for one layer, replicas included: minimise weighted remote visits, where every expert that a token's home lacks is taken from a
 * visited node that holds it.
 */
export function fanOutProgram(layer: FanOutLayer): { program: LinearProgram; decode: (values: ArrayLike<number>) => Int32Array } {
  const b = new ProgramBuilder('min');
  const nodes = layer.slots.map((_, n) => n);
  const x = Array.from({ length: layer.experts }, () => nodes.map(() => b.binary()));
  for (const row of x)
    b.row(
      1,
      Infinity,
      row.map((c) => [c, 1] as const),
    );
  for (const n of nodes)
    b.row(
      0,
      layer.slots[n],
      x.map((row) => [row[n], 1] as const),
    );
  for (const { experts, home, weight } of layer.tokens) {
    const visits = nodes.map((n) => (n === home ? -1 : b.column(weight, 0, 1, true)));
    for (const e of experts) {
      const taken = nodes.filter((n) => n !== home).map((n) => ({ n, column: b.column(0, 0, 1) }));
      b.row(1, Infinity, [[x[e][home], 1], ...taken.map(({ column }) => [column, 1] as const)]);
      for (const { n, column } of taken) {
        b.row(-Infinity, 0, [
          [column, 1],
          [x[e][n], -1],
        ]);
        b.row(-Infinity, 0, [
          [column, 1],
          [visits[n], -1],
        ]);
      }
    }
  }
  return {
    program: b.program,
    decode: (values) => Int32Array.from(x, (row) => row.reduce((mask, c, n) => (values[c] > 0.5 ? mask | (1 << n) : mask), 0)),
  };
}
