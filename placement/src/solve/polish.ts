import { inSession } from '../ilp/highs.ts';
import { ProgramBuilder } from '../ilp/program.ts';
import type { FanOutSearch } from './fan-out-search.ts';
import type { LayerSearch } from './layer-search.ts';

export interface PolishOptions {
  /** Columns that one program may have; layers that need more are left as they are. */
  columnsMax: number;
  /** Nodes of branch and bound that one program may take. Effort is counted, never timed, so that the same instance gives the same plan. */
  branchesMax: number;
  /** Milliseconds until the deadline, which ends a program in its midst; Infinity: none. */
  timeLeftMs: () => number;
  signal: AbortSignal | null;
}

export interface Polished {
  /** Programs that found something better. */
  kept: number;
  /**
   * No placement with these homes, these prices and this memory, group of layers by group, has a lower objective; null where not all layers were solved to the end.
   */
  bound: number | null;
}

/**
 * The last steps of a small instance: with homes as they are, the layers' holders by integer programs, as many layers together as one program holds, under the memory
 * of their nodes. The programs choose routes freely, and in parts, where the router has a rule: their optimum is a bound, and what they find is priced as the search
 * prices it and kept only if it is better.
 */
export async function polish(search: FanOutSearch, options: PolishOptions): Promise<Polished> {
  const groups = layerGroups(search, options.columnsMax);
  if (groups.length === 0) return { kept: 0, bound: null };
  let kept = 0;
  const all = groups.reduce((sum, group) => sum + group.length, 0) === search.layers.length;
  let bound: number | null = all ? 0 : null;
  const done = await inSession(options.signal ?? undefined, async (session) => {
    for (const group of groups) {
      if (search.options.stop()) return false;
      const { program, decode, constant } = groupProgram(search, group);
      await session.load(program);
      const { status, objective, values } = await session.run(options.timeLeftMs(), {
        mip_rel_gap: 0,
        mip_abs_gap: 1e-6,
        mip_max_nodes: options.branchesMax,
      });
      bound = bound === null || status !== 'optimal' || objective === null ? null : bound + objective + constant;
      if (values !== null && keepIfBetter(search, group, decode(values))) kept++;
    }
    return true;
  });
  // A search that was aborted, or whose solver failed, goes on with the best so far.
  return { kept, bound: done ? bound : null };
}

/** Consecutive layers, as many together as a program may hold; those that are too large alone are left out. */
function layerGroups(search: FanOutSearch, columnsMax: number): number[][] {
  const groups: number[][] = [];
  let open: number[] = [];
  let columns = 0;
  search.layers.forEach((layer, l) => {
    const own = columnsOf(layer, columnsMax);
    if (own > columnsMax) return;
    if (columns + own > columnsMax) {
      groups.push(open);
      open = [];
      columns = 0;
    }
    open.push(l);
    columns += own;
  });
  return open.length === 0 ? groups : [...groups, open];
}

/** Infinity where they are more than `most` without a closer look: that of large instances costs nothing. */
function columnsOf(layer: LayerSearch, most: number): number {
  const { nodes } = layer;
  if (layer.choiceCount * (nodes - 1) > most) return Infinity;
  return layer.experts * nodes + 1 + layer.choices().reduce((sum, { experts }) => sum + (nodes - 1) * (1 + experts.length), 0);
}

/**
 * Minimises what `LayerSearch.objective` does: remote visits and rows of every token, and the price of the fullest node's rows above its share.
 *
 * @returns decode: nodes of every expert as bits, (layers of the group) of (experts); constant: what to add to the program's objective
 */
function groupProgram(search: FanOutSearch, group: readonly number[]) {
  const { prices } = search;
  const nodes = Array.from(search.free, (_, n) => n);
  const b = new ProgramBuilder('min');
  const memory = nodes.map((): [number, number][] => []);
  let constant = 0;
  const held = search.free.map((free) => Math.max(0, free));
  const placed = group.map((l) => {
    const layer = search.layers[l];
    for (const mask of layer.maskOf) for (const n of nodes) held[n] += (mask >>> n) & 1;
    const x = Array.from({ length: layer.experts }, () => nodes.map(() => b.binary()));
    x.forEach((row) => {
      b.row(
        1,
        Infinity,
        row.map((column) => [column, 1] as const),
      );
      row.forEach((column, n) => {
        memory[n].push([column, 1]);
      });
    });
    const rows = nodes.map(() => new Map<number, number>());
    const add = (n: number, column: number, weight: number) => rows[n].set(column, (rows[n].get(column) ?? 0) + weight);
    let total = 0;
    for (const { experts, home, weight } of layer.choices()) {
      const away = nodes.filter((n) => n !== home);
      const visits = new Map(
        away.map((n) => {
          const price = prices.linkPrice === null ? 1 : prices.linkPrice[home * nodes.length + n];
          return [n, b.column(weight * prices.visitPrice * price, 0, 1)] as const;
        }),
      );
      for (const e of experts) {
        total += weight;
        add(home, x[e][home], weight);
        // A row that is served away pays its price as a route does.
        const routes = away.map((n) => ({ n, column: b.column(weight * prices.remoteRowPrice, 0, 1) }));
        b.row(1, 1, [[x[e][home], 1], ...routes.map(({ column }) => [column, 1] as const)]);
        for (const { n, column } of routes) {
          add(n, column, weight);
          b.row(-Infinity, 0, [
            [column, 1],
            [x[e][n], -1],
          ]);
          b.row(-Infinity, 0, [
            [column, 1],
            [visits.get(n)!, -1],
          ]);
        }
      }
    }
    const peakCost = prices.peakPrice / nodes.length;
    const peak = b.column(peakCost, total, Infinity);
    constant -= peakCost * total;
    for (const n of nodes)
      b.row(-Infinity, 0, [...[...rows[n]].map(([column, weight]) => [column, weight / prices.share[n]] as const), [peak, -1]]);
    return x;
  });
  for (const n of nodes) b.row(0, held[n], memory[n]);
  if (search.spare < Infinity) {
    const own = placed.reduce((sum, _, i) => sum + search.layers[group[i]].replicaCount(), 0);
    b.row(0, own + search.spare, memory.flat());
  }
  const decode = (values: ArrayLike<number>) =>
    placed.map((x) => Int32Array.from(x, (row) => row.reduce((mask, column, n) => (values[column] > 0.5 ? mask | (1 << n) : mask), 0)));
  return { program: b.program, decode, constant };
}

/** Takes the layers' new holders if the objective is better, and what plans are judged by no worse. Says whether it did. */
function keepIfBetter(search: FanOutSearch, group: readonly number[], found: readonly Int32Array[]): boolean {
  const before = search.result();
  const merit = search.merit();
  const masks = before.masks.slice();
  group.forEach((l, i) => {
    masks[l] = found[i];
  });
  search.load(masks);
  if (
    search.spare >= 0 &&
    search.free.every((free) => free >= 0) &&
    search.objective() < before.objective - 1e-9 &&
    search.merit() <= merit + 1e-9
  )
    return true;
  search.load(before.masks);
  return false;
}
