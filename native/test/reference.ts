/**
 * The row ops in double precision, written from the text of `switchyard.h` alone and sharing nothing with the kernels. Rows are plain arrays.
 */

export const sigmoid = (z: number): number => 1 / (1 + Math.exp(-z));
const mean = (x: readonly number[]): number => x.reduce((sum, v) => sum + v, 0) / x.length;

export function norm(
  x: readonly number[],
  of: { kind: 'rms' | 'layer' | 'l2'; eps: number; weight: readonly number[] | null; bias: readonly number[] | null; weightPlus: number },
): number[] {
  const shift = of.kind === 'layer' ? mean(x) : 0;
  const r = 1 / Math.sqrt(mean(x.map((v) => (v - shift) ** 2)) + of.eps);
  return x.map((v, i) => (v - shift) * r * (of.weight ? of.weight[i]! + of.weightPlus : 1) + (of.bias?.[i] ?? 0));
}

/** Rotates the first 2*angles.length numbers. */
export function rope(x: readonly number[], angles: readonly number[], interleaved: boolean): number[] {
  const out = x.slice();
  angles.forEach((angle, i) => {
    const [a, b] = interleaved ? [2 * i, 2 * i + 1] : [i, i + angles.length];
    out[a] = x[a]! * Math.cos(angle) - x[b]! * Math.sin(angle);
    out[b] = x[b]! * Math.cos(angle) + x[a]! * Math.sin(angle);
  });
  return out;
}

export function gated(kind: 'silu' | 'gpt_oss', g: number, u: number, alpha: number, limit: number): number {
  if (kind === 'silu') return g * sigmoid(g) * u;
  const gate = Math.min(g, limit);
  return (Math.max(-limit, Math.min(u, limit)) + 1) * gate * sigmoid(alpha * gate);
}

/** One query at position i over keys and values at positions 0..; `sink` is one more score without a value. */
export function attend(
  q: readonly number[],
  keys: readonly (readonly number[])[],
  values: readonly (readonly number[])[],
  of: { i: number; scale: number; window: number; chunk: number; sink: number | null },
): number[] {
  const { i, window, chunk } = of;
  const visible = [...keys.keys()].filter(
    (j) => j <= i && (window === 0 || i - j < window) && (chunk === 0 || Math.floor(i / chunk) === Math.floor(j / chunk)),
  );
  const scores = visible.map((j) => keys[j]!.reduce((sum, k, d) => sum + k * q[d]!, 0) * of.scale);
  const most = Math.max(...scores, of.sink ?? -Infinity);
  const weights = scores.map((s) => Math.exp(s - most));
  const total = weights.reduce((sum, w) => sum + w, of.sink === null ? 0 : Math.exp(of.sink - most));
  return values[0]!.map((_, d) => visible.reduce((sum, j, at) => sum + (weights[at]! / total) * values[j]![d]!, 0));
}

export interface RouteRule {
  score: 'softmax' | 'softmax_chosen' | 'sigmoid' | 'sparse_mixer' | 'factored';
  k: number;
  groups: number;
  topGroups: number;
  groupScore: 'max' | 'top_two';
  maskZero: boolean;
  renorm: boolean;
  renormEps: number;
  scale: number;
  jitterEps: number;
}

function softmax(z: readonly number[]): number[] {
  const most = Math.max(...z);
  const e = z.map((v) => Math.exp(v - most));
  const total = e.reduce((sum, v) => sum + v, 0);
  return e.map((v) => v / total);
}

/** Indices of the n largest, higher first, ties by lower index. */
function largest(of: readonly number[], n: number): number[] {
  return [...of.keys()].sort((a, b) => of[b]! - of[a]! || a - b).slice(0, n);
}

function sparseMixer(z: readonly number[], epsilon: number): { ids: number[]; weights: number[] } {
  const left = z.slice();
  const ids: number[] = [];
  const weights: number[] = [];
  for (let i = 0; i < 2; i++) {
    const best = largest(left, 1)[0]!;
    const most = left[best]!;
    const kept = left.map((v, e) => v !== -Infinity && !((most - z[e]!) / Math.max(Math.abs(z[e]!), most) > 2 * epsilon));
    weights.push(1 / left.reduce((sum, v, e) => sum + (kept[e] ? Math.exp(v - most) : 0), 0));
    ids.push(best);
    left[best] = -Infinity;
  }
  return { ids, weights };
}

/** Every pair that a kept group and a kept slot make, best first. */
function factored(z: readonly number[], { k, groups, topGroups }: RouteRule): { ids: number[]; weights: number[] } {
  const p = softmax(z.slice(0, groups));
  const q = softmax(z.slice(groups));
  const pairs = largest(p, topGroups).flatMap((i) => largest(q, k / topGroups).map((j) => ({ id: i * q.length + j, w: p[i]! * q[j]! })));
  pairs.sort((a, b) => b.w - a.w || a.id - b.id);
  return { ids: pairs.map(({ id }) => id), weights: pairs.map(({ w }) => w) };
}

export function route(z: readonly number[], bias: readonly number[] | null, rule: RouteRule): { ids: number[]; weights: number[] } {
  if (rule.score === 'sparse_mixer') {
    const { ids, weights } = sparseMixer(z, rule.jitterEps);
    return { ids, weights: weights.map((w) => w * rule.scale) };
  }
  if (rule.score === 'factored') {
    const { ids, weights } = factored(z, rule);
    const total = rule.renorm ? weights.reduce((sum, w) => sum + w, 0) + rule.renormEps : 1;
    return { ids, weights: weights.map((w) => (w / total) * rule.scale) };
  }
  const s = rule.score === 'softmax' ? softmax(z) : rule.score === 'sigmoid' ? z.map(sigmoid) : z.slice();
  let c = s.map((v, e) => v + (bias?.[e] ?? 0));
  if (rule.groups > 1) {
    const size = c.length / rule.groups;
    const groupScores = Array.from({ length: rule.groups }, (_, g) => {
      const sorted = c.slice(g * size, (g + 1) * size).sort((a, b) => b - a);
      return rule.groupScore === 'max' ? sorted[0]! : sorted[0]! + sorted[1]!;
    });
    const kept = new Set(largest(groupScores, rule.topGroups));
    c = c.map((v, e) => (kept.has(Math.floor(e / size)) ? v : rule.maskZero ? 0 : -Infinity));
  }
  const ids = largest(c, rule.k);
  // A masked expert may still be chosen, where fewer than k have a score above 0; without a bias, what it scored then is its weight.
  const weighed = rule.maskZero && bias === null ? c : s;
  let weights = ids.map((e) => weighed[e]!);
  if (rule.score === 'softmax_chosen') weights = softmax(weights);
  const total = weights.reduce((sum, w) => sum + w, 0) + rule.renormEps;
  return { ids, weights: weights.map((w) => (rule.renorm ? w / total : w) * rule.scale) };
}

/** The rule among the experts of the `limit` nodes that hold most of the weight of the free choice; `nodes[e]`: bits of the nodes of expert e. */
export function routeWithinNodes(
  z: readonly number[],
  nodes: readonly number[],
  limit: number,
  rule: RouteRule,
): { ids: number[]; weights: number[] } {
  const free = route(z, null, rule);
  let left = [...free.ids.keys()];
  let kept = 0;
  for (let i = 0; i < limit && left.length > 0; i++) {
    const weightOn = (node: number) => left.reduce((sum, at) => sum + ((nodes[free.ids[at]!]! >>> node) & 1 ? free.weights[at]! : 0), 0);
    const best = largest(
      Array.from({ length: 32 }, (_, node) => weightOn(node)),
      1,
    )[0]!;
    kept |= 1 << best;
    left = left.filter((at) => ((nodes[free.ids[at]!]! >>> best) & 1) === 0);
  }
  if (left.length === 0) return free;
  const elsewhere = nodes.map((held) => ((held & kept) === 0 ? -Infinity : 0));
  return route(z, elsewhere, rule);
}
