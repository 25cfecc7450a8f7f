import { SwitchyardError } from '@switchyard/proto';
import type { Transitions } from '../score/transitions.ts';
import { type LinearProgram, ProgramBuilder } from './program.ts';

/** A program and how to read its solution. */
export interface ChainProgram {
  program: LinearProgram;
  /** Parts from a solution's values, (layers, experts). */
  decode: (values: ArrayLike<number>) => Int32Array;
}

/** Most subsets of one layer that the subset-flow program lists. */
const subsetsMax = 500;

/**
 * Subset flow: a layer is a set of parts, each a subset of `size` experts; parts of adjacent layers are joined one to one, and a join keeps the transitions between its
 * two subsets. Parts have no names, so there is no symmetry. Strong, but only for few subsets. Maximises staying transitions.
 */
export function subsetFlow(w: Transitions, parts: number): ChainProgram {
  const { layers, experts, counts } = w;
  if (experts % parts !== 0)
    throw new SwitchyardError('bad_plan', `subset flow: ${experts} experts over ${parts} parts do not divide`, { param: 'parts' });
  const subsets = subsetsOf(experts, experts / parts);
  if (subsets.length > subsetsMax)
    throw new SwitchyardError('bad_plan', `subset flow: more than ${subsetsMax} subsets of ${experts / parts} from ${experts} experts`, {
      param: 'parts',
    });
  const b = new ProgramBuilder('max');
  const chosen = Array.from({ length: layers }, () => subsets.map(() => b.binary()));
  const joins: number[][][] = [];
  for (let l = 0; l < layers; l++) {
    for (let e = 0; e < experts; e++)
      b.row(
        1,
        1,
        subsets.flatMap((s, i) => (s.includes(e) ? [[chosen[l][i], 1] as const] : [])),
      );
    if (l === layers - 1) continue;
    joins.push(
      subsets.map((s) =>
        subsets.map((t) => {
          let kept = 0;
          for (const e of s) for (const f of t) kept += counts[l][e * experts + f];
          return b.column(kept, 0, 1);
        }),
      ),
    );
    subsets.forEach((_, i) => {
      b.row(0, 0, [[chosen[l][i], -1], ...joins[l][i].map((j) => [j, 1] as const)]);
    });
  }
  for (let l = 1; l < layers; l++)
    subsets.forEach((_, i) => {
      b.row(0, 0, [[chosen[l][i], -1], ...joins[l - 1].map((row) => [row[i], 1] as const)]);
    });
  return {
    program: b.program,
    decode: (values) => {
      const partOf = new Int32Array(layers * experts);
      let label = new Map<number, number>();
      for (let l = 0; l < layers; l++) {
        const here = subsets.map((_, i) => i).filter((i) => values[chosen[l][i]] > 0.5);
        const next = new Map<number, number>();
        if (l === 0) for (const [p, i] of here.entries()) next.set(i, p);
        else {
          const free = new Set(Array.from({ length: parts }, (_, p) => p));
          for (const i of here)
            for (const [from, p] of label)
              if (values[joins[l - 1][from][i]] > 0.5) {
                next.set(i, p);
                free.delete(p);
              }
          for (const i of here)
            if (!next.has(i)) {
              const p = free.values().next().value!;
              free.delete(p);
              next.set(i, p);
            }
        }
        for (const [i, p] of next) for (const e of subsets[i]) partOf[l * experts + e] = p;
        label = next;
      }
      return partOf;
    },
  };
}

function subsetsOf(count: number, size: number): number[][] {
  const found: number[][] = [];
  const choose = (from: number, taken: number[]) => {
    if (found.length > subsetsMax) return;
    if (taken.length === size) {
      found.push(taken);
      return;
    }
    for (let i = from; i < count; i++) choose(i + 1, [...taken, i]);
  };
  choose(0, []);
  return found;
}

/** x[l][e][p] = 1 where expert e of layer l is on part p: one part each, `size` experts per part and layer. The first expert is on part 0: parts are alike. */
function placementColumns(b: ProgramBuilder, layers: number, experts: number, parts: number): number[][][] {
  const x = Array.from({ length: layers }, () => Array.from({ length: experts }, () => Array.from({ length: parts }, () => b.binary())));
  for (let l = 0; l < layers; l++) {
    for (let e = 0; e < experts; e++)
      b.row(
        1,
        1,
        x[l][e].map((c) => [c, 1] as const),
      );
    for (let p = 0; p < parts; p++)
      b.row(
        Math.floor(experts / parts),
        Math.ceil(experts / parts),
        x[l].map((row) => [row[p], 1] as const),
      );
  }
  b.row(1, 1, [[x[0][0][0], 1]]);
  return x;
}

function decodeColumns(x: number[][][], values: ArrayLike<number>): Int32Array {
  return Int32Array.from(x.flat(), (row) => row.reduce((best, c, p) => (values[c] > values[row[best]] ? p : best), 0));
}

/**
 * The reformulation-linearisation of the product x[l][e][p] x[l+1][f][p] = y: sum over f of y = size x[l][e][p], sum over e of y = size x[l+1][f][p], 0 <= y <= both.
 * Needs equal parts. Maximises staying transitions.
 */
export function rlt(w: Transitions, parts: number): ChainProgram {
  const { layers, experts, counts } = w;
  if (experts % parts !== 0)
    throw new SwitchyardError('bad_plan', `RLT: ${experts} experts over ${parts} parts do not divide`, { param: 'parts' });
  const size = experts / parts;
  const b = new ProgramBuilder('max');
  const x = placementColumns(b, layers, experts, parts);
  for (let l = 0; l + 1 < layers; l++)
    for (let p = 0; p < parts; p++) {
      const y = Array.from({ length: experts }, (_, e) =>
        Array.from({ length: experts }, (_, f) => b.column(counts[l][e * experts + f], 0, 1)),
      );
      for (let e = 0; e < experts; e++) {
        b.row(0, 0, [[x[l][e][p], -size], ...y[e].map((c) => [c, 1] as const)]);
        b.row(0, 0, [[x[l + 1][e][p], -size], ...y.map((row) => [row[e], 1] as const)]);
        for (let f = 0; f < experts; f++) {
          b.row(-Infinity, 0, [
            [y[e][f], 1],
            [x[l][e][p], -1],
          ]);
          b.row(-Infinity, 0, [
            [y[e][f], 1],
            [x[l + 1][f][p], -1],
          ]);
        }
      }
    }
  return { program: b.program, decode: (values) => decodeColumns(x, values) };
}

/**
 * ExFlow's program (arXiv 2401.08383): R >= |x[l][e][p] - x[l+1][f][p]| for every p, minimise the transitions with R = 1. Transitions between the same experts share
 * one R with a weight, which changes nothing but the size. Its linear relaxation is 0, so expect no bound; a baseline, never the default.
 */
export function exflow(w: Transitions, parts: number): ChainProgram {
  const { layers, experts, counts } = w;
  const b = new ProgramBuilder('min');
  const x = placementColumns(b, layers, experts, parts);
  for (let l = 0; l + 1 < layers; l++)
    for (let e = 0; e < experts; e++)
      for (let f = 0; f < experts; f++) {
        const count = counts[l][e * experts + f];
        if (count === 0) continue;
        const crosses = b.column(count, 0, 1, true);
        for (let p = 0; p < parts; p++)
          for (const sign of [1, -1])
            b.row(0, Infinity, [
              [crosses, 1],
              [x[l][e][p], -sign],
              [x[l + 1][f][p], sign],
            ]);
      }
  return { program: b.program, decode: (values) => decodeColumns(x, values) };
}

/**
 * MoETuner's first stage for one layer (arXiv 2502.06643): clusters of experts with the least sum of deviations from the mean load. No cluster is empty.
 *
 * @param loads (experts)
 */
export function moetunerClusters(
  loads: ArrayLike<number>,
  clusters: number,
): { program: LinearProgram; decode: (values: ArrayLike<number>) => Int32Array } {
  const b = new ProgramBuilder('min');
  const experts = loads.length;
  const mean = Array.from(loads).reduce((a, v) => a + v, 0) / clusters;
  const x = Array.from({ length: experts }, () => Array.from({ length: clusters }, () => b.binary()));
  for (let e = 0; e < experts; e++)
    b.row(
      1,
      1,
      x[e].map((c) => [c, 1] as const),
    );
  for (let c = 0; c < clusters; c++) {
    const deviation = b.column(1, 0, Infinity);
    b.row(
      1,
      Infinity,
      x.map((row) => [row[c], 1] as const),
    );
    b.row(-Infinity, mean, [[deviation, -1], ...x.map((row, e) => [row[c], loads[e]] as const)]);
    b.row(mean, Infinity, [[deviation, 1], ...x.map((row, e) => [row[c], loads[e]] as const)]);
  }
  return {
    program: b.program,
    decode: (values) => Int32Array.from(x, (row) => row.reduce((best, c, p) => (values[c] > values[row[best]] ? p : best), 0)),
  };
}

/**
 * MoETuner's second stage: which device takes which cluster, to minimise the sum over layers of the slowest link's traffic over bandwidth. Products of assignments are
 * linearised by flows (the strong form).
 *
 * @param flow      tokens from cluster c of layer l to cluster d of the next, (layers - 1) of (devices, devices)
 * @param slowness  1 / bandwidth of each ordered pair of devices, (devices, devices); 0 on the diagonal
 */
export function moetunerDevices(
  flow: readonly ArrayLike<number>[],
  devices: number,
  slowness: ArrayLike<number>,
): { program: LinearProgram; decode: (values: ArrayLike<number>) => Int32Array } {
  const b = new ProgramBuilder('min');
  const layers = flow.length + 1;
  const range = Array.from({ length: devices }, (_, i) => i);
  const y = Array.from({ length: layers }, () => range.map(() => range.map(() => b.binary())));
  for (const layer of y)
    for (const i of range) {
      b.row(
        1,
        1,
        range.map((g) => [layer[i][g], 1] as const),
      );
      b.row(
        1,
        1,
        range.map((c) => [layer[c][i], 1] as const),
      );
    }
  for (let l = 0; l + 1 < layers; l++) {
    const slowest = b.column(1, 0, Infinity);
    const product = range.map((c) =>
      range.map((d) => range.map(() => range.map(() => b.column(0, 0, 1)).map((column) => ({ c, d, column })))),
    );
    for (const c of range)
      for (const d of range)
        for (const g of range) {
          b.row(0, 0, [[y[l][c][g], -1], ...range.map((h) => [product[c][d][g][h].column, 1] as const)]);
          b.row(0, 0, [[y[l + 1][d][g], -1], ...range.map((h) => [product[c][d][h][g].column, 1] as const)]);
        }
    for (const g of range)
      for (const h of range) {
        const slow = slowness[g * devices + h];
        if (slow > 0)
          b.row(0, Infinity, [
            [slowest, 1],
            ...range.flatMap((c) => range.map((d) => [product[c][d][g][h].column, -slow * flow[l][c * devices + d]] as const)),
          ]);
      }
  }
  return {
    program: b.program,
    decode: (values) => Int32Array.from(y.flat(), (row) => row.reduce((best, c, g) => (values[c] > values[row[best]] ? g : best), 0)),
  };
}
