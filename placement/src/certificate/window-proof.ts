import { SwitchyardError } from '@switchyard/proto';
import { inSession } from '../ilp/highs.ts';
import { type LinearProgram, ProgramBuilder } from '../ilp/program.ts';
import type { Transitions } from '../score/transitions.ts';
import { type StarProof, scale, type WindowProof } from './certificate.ts';

export interface WindowOptions {
  parts: number;
  partExpertsMax: number;
  /** Layers per window: more is tighter and slower. */
  width: number;
  /** Rounds of cutting planes per window. */
  rounds: number;
  timeLimitMs: number;
  signal?: AbortSignal;
  onWindow?: (from: number, to: number, staying: number) => void;
}

/**
 * Upper bounds on staying transitions over windows of layers: the star (matching) program of every pair, joined by same-layer co-locations `s` of the inner layers and
 * the triangle inequalities between them, which are found lazily. The rows are those of `windowValue` in verify.ts, where their meaning is written down. A window
 * whose solve fails or whose proof is no better falls back to the given star proofs.
 */
export async function proveWindows(
  w: Transitions,
  stars: { proofs: StarProof[]; staying: number[] },
  options: WindowOptions,
): Promise<{ proofs: (StarProof | WindowProof)[]; bound: number }> {
  if (!Number.isInteger(options.width) || options.width < 2)
    throw new SwitchyardError('bad_plan', `width is ${options.width}, must be an integer of at least 2`, { param: 'width' });
  const total = w.counts.reduce((sum, counts) => sum + counts.reduce((a, b) => a + b, 0), 0);
  const proofs: (StarProof | WindowProof)[] = [];
  let staying = 0;
  for (let from = 0; from < w.layers - 1; from += options.width - 1) {
    const to = Math.min(w.layers - 1, from + options.width - 1);
    const star = stars.staying.slice(from, to).reduce((a, b) => a + b, 0);
    const found = to - from < 2 || options.signal?.aborted ? null : await proveWindow(w, from, to, options);
    if (found !== null && found.staying < star) {
      proofs.push(found.proof);
      staying += found.staying;
    } else {
      proofs.push(...stars.proofs.slice(from, to));
      staying += star;
    }
    options.onWindow?.(from, to, Math.min(star, found?.staying ?? Infinity));
  }
  return { proofs, bound: staying / total };
}

interface Row {
  name: string;
  upper: number;
  equality: boolean;
  columns: number[];
  values: number[];
}

async function proveWindow(
  w: Transitions,
  from: number,
  to: number,
  options: WindowOptions,
): Promise<{ proof: WindowProof; staying: number } | null> {
  const { experts } = w;
  const cap = options.partExpertsMax;
  const exact = cap * options.parts === experts;
  const b = new ProgramBuilder('max');
  const rows: Row[] = [];
  const z = Array.from({ length: to - from }, (_, i) =>
    Int32Array.from({ length: experts * experts }, (_, p) => b.column(w.counts[from + i][p], 0, 1)),
  );
  // Co-locations of inner layers: each is tied to the z on both sides.
  const s = Array.from({ length: to - from - 1 }, () => {
    const of = new Int32Array(experts * experts);
    for (let e = 0; e < experts; e++)
      for (let f = e + 1; f < experts; f++) {
        of[e * experts + f] = b.column(0, 0, 1);
        of[f * experts + e] = of[e * experts + f];
      }
    return of;
  });
  const range = Array.from({ length: experts }, (_, e) => e);
  const push = (name: string, upper: number, equality: boolean, entries: [number, number][]) => {
    rows.push({ name, upper, equality, columns: entries.map(([c]) => c), values: entries.map(([, v]) => v) });
  };
  for (let l = from; l < to; l++)
    for (const e of range) {
      push(
        `R ${l} ${e}`,
        cap,
        false,
        range.map((g) => [z[l - from][e * experts + g], 1]),
      );
      push(
        `C ${l} ${e}`,
        cap,
        false,
        range.map((x) => [z[l - from][x * experts + e], 1]),
      );
    }
  for (let l = from + 1; l < to; l++)
    for (const e of range)
      push(
        `D ${l} ${e}`,
        cap - 1,
        exact,
        range.filter((f) => f !== e).map((f) => [s[l - from - 1][e * experts + f], 1]),
      );
  const asProgram = (list: Row[]): LinearProgram['rows'] =>
    list.map((r) => ({ lower: r.equality ? r.upper : -Infinity, upper: r.upper, columns: r.columns, values: r.values }));
  let best: { proof: WindowProof; staying: number } | null = null;
  await inSession(options.signal, async (session) => {
    await session.load({ ...b.program, rows: asProgram(rows) });
    for (let round = 0; round <= options.rounds; round++) {
      const { status, values, rowDuals } = await session.run(options.timeLimitMs, {
        presolve: round === 0 ? 'on' : 'off',
        solver: 'simplex',
      });
      if (status !== 'optimal' || values === null || rowDuals === null) break;
      const proof = roundDuals(rows, rowDuals, b.program.cost, from, to);
      if (best === null || proof.staying < best.staying) best = proof;
      const cuts = violated(values, z, s, experts, from, new Set(rows.map((r) => r.name)));
      if (cuts.length === 0) break;
      rows.push(...cuts);
      await session.addRows(asProgram(cuts));
    }
  });
  return best;
}

/** Rounds duals to the grid, repairs their signs, and sums the bound that they prove. */
function roundDuals(
  rows: Row[],
  duals: Float64Array,
  cost: readonly number[],
  from: number,
  to: number,
): { proof: WindowProof; staying: number } {
  const reduced = cost.map((c) => c * scale);
  const kept: [string, number][] = [];
  let value = 0;
  rows.forEach((row, i) => {
    const rounded = Math.round(duals[i] * scale);
    const dual = row.equality ? rounded : Math.max(0, rounded);
    if (dual === 0) return;
    kept.push([row.name, dual]);
    value += dual * row.upper;
    row.columns.forEach((c, j) => {
      reduced[c] -= dual * row.values[j];
    });
  });
  for (const r of reduced) value += Math.max(0, r);
  return { proof: { kind: 'window', from, to, duals: kept }, staying: value / scale };
}

/** Triangle inequalities that the solution breaks, the worst of each kind first. */
function violated(
  values: Float64Array,
  z: Int32Array[],
  s: Int32Array[],
  experts: number,
  from: number,
  known: ReadonlySet<string>,
): Row[] {
  const found: { row: Row; by: number }[] = [];
  const consider = (name: string, columns: number[], signs: number[]) => {
    let sum = -1;
    for (let i = 0; i < columns.length; i++) sum += signs[i] * values[columns[i]];
    if (sum > 0.01 && !known.has(name)) found.push({ row: { name, upper: 1, equality: false, columns, values: signs }, by: sum });
  };
  s.forEach((own, i) => {
    const l = from + 1 + i;
    const after = z[i + 1];
    const before = z[i];
    for (let e = 0; e < experts; e++)
      for (let f = 0; f < experts; f++) {
        if (e === f) continue;
        const together = own[e * experts + f];
        for (let g = 0; g < experts; g++) {
          const zeg = after[e * experts + g];
          const zfg = after[f * experts + g];
          const xe = before[g * experts + e];
          const xf = before[g * experts + f];
          if (e < f) {
            if (values[zeg] + values[zfg] > 1) consider(`A ${l} ${e} ${f} ${g}`, [zeg, zfg, together], [1, 1, -1]);
            if (values[xe] + values[xf] > 1) consider(`B ${l} ${e} ${f} ${g}`, [xe, xf, together], [1, 1, -1]);
          }
          if (values[zeg] + values[together] > 1) consider(`P ${l} ${e} ${f} ${g}`, [zeg, zfg, together], [1, -1, 1]);
          if (values[xe] + values[together] > 1) consider(`Q ${l} ${e} ${f} ${g}`, [xe, xf, together], [1, -1, 1]);
          if (g > f && g !== e && values[together] + values[own[e * experts + g]] > 1)
            consider(`T ${l} ${e} ${f} ${g}`, [together, own[e * experts + g], own[f * experts + g]], [1, 1, -1]);
        }
      }
  });
  found.sort((a, b) => b.by - a.by || (a.row.name < b.row.name ? -1 : 1));
  return found.slice(0, 6000).map(({ row }) => row);
}
