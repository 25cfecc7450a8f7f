import { chooseReplicas, type Plan } from '@switchyard/proto';
import { NO_EXPERT, type RoutingTrace } from '../trace/routing-trace.ts';
import { type Certificate, type ChainClaim, type FanOutClaim, type LoadClaim, planDigest, traceDigest } from './certificate.ts';

/**
 * The independent checker. It imports the router's rule from `proto` and the format of the certificate, and nothing of the solvers, the fast evaluator or the provers:
 * every score is counted again token by token, every bound is summed again from its duals. Sums in which large duals could cancel each other are exact: duals that
 * would take them beyond 2^53 are refused. In all others terms only add up, and rounding is far below the tolerance.
 */
export interface Verdict {
  ok: boolean;
  /** One line per check, failed ones first. */
  checks: { ok: boolean; text: string }[];
}

/** Grid of the duals, stated again here on purpose. */
const unit = 2 ** -8;
const tolerance = 1e-9;

export function verifyCertificate(plan: Plan, trace: RoutingTrace, certificate: Certificate): Verdict {
  const checks: Verdict['checks'] = [];
  const check = (ok: boolean, text: string) => {
    checks.push({ ok, text });
    return ok;
  };
  check(
    certificate.format === 'switchyard-certificate' && certificate.version === 1,
    `format ${certificate.format} version ${certificate.version}`,
  );
  const samePlan = check(certificate.plan === planDigest(plan), 'the certificate is for this plan');
  const sameTrace = check(certificate.trace === traceDigest(trace), 'the certificate is for this trace');
  const valid = checkPlan(plan, trace, check);
  if (samePlan && sameTrace && valid) checkHomes(plan, trace, certificate, check);
  const routes = routesOf(plan, trace);
  if (samePlan && sameTrace && valid)
    for (const claim of certificate.claims) {
      if (claim.kind === 'fan-out') checkFanOut(plan, trace, claim, routes, check);
      else if (claim.kind === 'load') checkLoad(plan, trace, claim, routes, check);
      else checkChain(plan, trace, claim, check);
    }
  checks.sort((a, b) => Number(a.ok) - Number(b.ok));
  return { ok: checks.every((c) => c.ok), checks };
}

/** Scores under different homes are no scores of one placement. What is claimed of none is told all the same: homes far out of balance, or replicas beyond what was meant. */
function checkHomes(plan: Plan, trace: RoutingTrace, { claims }: Certificate, check: Check): void {
  const lists = claims.flatMap((claim) => (claim.kind === 'chain' ? [] : [claim.homes]));
  if (lists.length === 0 || !lists.every((homes) => areHomes(homes, plan, trace))) return;
  const [homes] = lists;
  check(
    lists.every((other) => other.every((home, s) => home === homes[s])),
    'the claims are for the same homes',
  );
  const { nodeOf, nodes } = nodesOf(plan);
  const tokens = new Array<number>(nodes).fill(0);
  trace.sequences.forEach((sequence, s) => {
    tokens[nodeOf[homes[s]]] += sequence.tokens;
  });
  const held = new Array<number>(nodes).fill(0);
  for (const workers of plan.replicas.flat()) for (const w of workers) held[nodeOf[w]]++;
  const peak = (tokens.reduce((a, b) => Math.max(a, b), 0) * nodes) / trace.tokens;
  check(true, `homes: the node with most has ${peak.toFixed(3)} of the mean's tokens; replicas of each node: ${held.join(', ')}`);
}

type Check = (ok: boolean, text: string) => boolean;

function checkPlan(plan: Plan, trace: RoutingTrace, check: Check): boolean {
  const layers = trace.moeLayers.length;
  if (
    !check(
      plan.replicas.length === layers && plan.model.experts === trace.experts && plan.model.moeLayers.join() === trace.moeLayers.join(),
      `${plan.replicas.length} layers and ${plan.model.experts} experts, as in the trace`,
    )
  )
    return false;
  let fault: string | null = null;
  plan.replicas.forEach((layer, l) => {
    if (layer.length !== trace.experts) fault ??= `layer ${l} lists ${layer.length} experts`;
    layer.forEach((workers, e) => {
      const ascending = workers.every(
        (w, i) => Number.isInteger(w) && w >= 0 && w < plan.workers.length && (i === 0 || workers[i - 1] < w),
      );
      if (workers.length === 0 || !ascending) fault ??= `expert ${e} of layer ${l} is on workers [${workers}]`;
    });
  });
  return check(fault === null, fault ?? 'every expert has at least one worker, none twice');
}

function near(a: number, b: number): boolean {
  return Number.isFinite(a) && Number.isFinite(b) && Math.abs(a - b) <= tolerance * Math.max(1, Math.abs(a), Math.abs(b));
}

function nodesOf(plan: Plan): { nodeOf: Int32Array; nodes: number } {
  const nodeOf = Int32Array.from(plan.workers, (w) => w.node);
  return { nodeOf, nodes: nodeOf.reduce((a, b) => Math.max(a, b), 0) + 1 };
}

function checkFanOut(plan: Plan, trace: RoutingTrace, claim: FanOutClaim, routes: Routes, check: Check): void {
  const { nodeOf, nodes } = nodesOf(plan);
  const layers = trace.moeLayers.length;
  const { homes } = claim;
  const shaped = areHomes(homes, plan, trace) && claim.layers.length === layers && claim.nodeExperts.length === layers;
  if (!check(shaped, 'fan-out: a home for every sequence, and duals for every layer')) return;
  const visits = routes(homes).reduce((sum, layer) => sum + layer.visits, 0);
  const score = visits / (trace.tokens * layers);
  check(near(score, claim.score), `fan-out: ${score.toFixed(6)} remote nodes per token and layer, claimed ${claim.score.toFixed(6)}`);
  // The class contains the plan.
  let inside = true;
  plan.replicas.forEach((layer, l) => {
    const held = new Array<number>(nodes).fill(0);
    for (const workers of layer) for (const n of new Set(workers.map((w) => nodeOf[w]))) held[n]++;
    held.sort((a, b) => b - a);
    const sizes = claim.nodeExperts[l];
    if (sizes.length !== nodes || held.some((h, n) => h > sizes[n] || (n > 0 && sizes[n] > sizes[n - 1]))) inside = false;
  });
  check(inside, 'fan-out: the plan is in the class that the bound is for');
  // The bound.
  let total = 0;
  for (let l = 0; l < layers; l++) total += Math.max(0, layerNodes(trace, l, nodes, claim) - trace.tokens);
  const bound = total / (trace.tokens * layers);
  check(claim.bound <= bound + tolerance, `fan-out: duals prove ${bound.toFixed(6)}, claimed ${claim.bound.toFixed(6)}`);
  check(claim.score >= bound - tolerance, 'fan-out: the score does not beat its own bound');
}

function areHomes(homes: number[], plan: Plan, trace: RoutingTrace): boolean {
  return homes.length === trace.sequences.length && homes.every((home) => home < plan.workers.length);
}

interface LayerRoutes {
  /** Remote nodes that all tokens visit. */
  visits: number;
  /** Rows that each worker serves, (workers). */
  rows: Float64Array;
}

/** Where the tokens go from given homes, (layers). */
type Routes = (homes: number[]) => LayerRoutes[];

/** Remembers the last homes: as a rule all claims are for the same. */
function routesOf(plan: Plan, trace: RoutingTrace): Routes {
  let last: { homes: number[]; routed: LayerRoutes[] } | null = null;
  return (homes) => {
    if (last === null || last.homes.some((home, s) => home !== homes[s])) {
      const order = Uint32Array.from(sideBySide(trace));
      last = { homes, routed: trace.moeLayers.map((_, l) => routeLayer(plan, trace, order, homes, l)) };
    }
    return last.routed;
  };
}

/** By the router's own function. `order`: of tokens, as a load depends on it. */
function routeLayer(plan: Plan, trace: RoutingTrace, order: Uint32Array, homes: number[], l: number): LayerRoutes {
  const { nodeOf } = nodesOf(plan);
  const rows = new Float64Array(plan.workers.length);
  const out = new Int32Array(trace.topK);
  let visits = 0;
  for (const t of order) {
    const experts = tokenExperts(trace, t, l);
    if (experts.length === 0) continue;
    const home = homes[trace.sequenceOf[t]];
    chooseReplicas(experts, experts.length, plan.replicas[l], nodeOf, home, rows, out);
    const remote = new Set<number>();
    for (let k = 0; k < experts.length; k++) {
      rows[out[k]]++;
      if (nodeOf[out[k]] !== nodeOf[home]) remote.add(nodeOf[out[k]]);
    }
    visits += remote.size;
  }
  return { visits, rows };
}

/** Tokens in the order that a load is claimed for: 64 sequences take turns, and the next one takes the place of one that ends. */
function* sideBySide(trace: RoutingTrace): Generator<number> {
  let first = 0;
  const waiting = trace.sequences.map(({ tokens }) => {
    first += tokens;
    return { next: first - tokens, end: first };
  });
  let admitted = Math.min(64, waiting.length);
  for (let running = waiting.slice(0, admitted); running.length > 0; ) {
    for (const sequence of running) yield sequence.next++;
    running = running.filter(({ next, end }) => next < end);
    while (running.length < 64 && admitted < waiting.length) running.push(waiting[admitted++]);
  }
}

function tokenExperts(trace: RoutingTrace, t: number, l: number): number[] {
  const from = (t * trace.moeLayers.length + l) * trace.topK;
  return Array.from(trace.ids.subarray(from, from + trace.topK)).filter((e) => e !== NO_EXPERT);
}

/** Lower bound on the nodes that all tokens of a layer visit, the home among them or not. */
function layerNodes(trace: RoutingTrace, l: number, nodes: number, claim: FanOutClaim): number {
  const { experts } = trace;
  const { reference, degreePrice, countPrice } = claim.layers[l];
  const bytes = Buffer.from(reference, 'base64');
  const rowStart = (e: number) => (e * (2 * experts - e - 1)) / 2 - e - 1;
  const at = (e: number, f: number) => rowStart(Math.min(e, f)) + Math.max(e, f);
  const weight = new Float64Array((experts * (experts - 1)) / 2); // in units
  let constant = 0; // in units
  for (let t = 0; t < trace.tokens; t++) {
    const chosen = tokenExperts(trace, t, l);
    const k = chosen.length;
    if (k === 0) {
      constant += 1 / unit;
      continue;
    }
    let pairs = 0;
    for (let i = 0; i < k; i++) for (let j = 0; j < i; j++) pairs += bytes[at(chosen[i], chosen[j])];
    // Any lambda >= 0 is valid; this is the one the prover used.
    const lambda = Math.round((envelope(k, nodes, pairs / 255 - 0.5) - envelope(k, nodes, pairs / 255 + 0.5)) / unit);
    let floor = Infinity;
    for (let d = 1; d <= Math.min(k, nodes); d++) floor = Math.min(floor, d / unit + lambda * evenPairs(k, d));
    constant += floor;
    for (let i = 0; i < k; i++) for (let j = 0; j < i; j++) weight[at(chosen[i], chosen[j])] += lambda;
  }
  if (countPrice < 0 || degreePrice.some((p) => p < 0)) return 0;
  // A node of s experts co-locates s (s - 1) / 2 pairs. An expert is on one node, and on as many more as there are replicas beyond one of each.
  const sizes = claim.nodeExperts[l];
  const pairsMax = sizes.reduce((sum, s) => sum + (s * (s - 1)) / 2, 0);
  const spare = Math.max(0, sizes.reduce((sum, s) => sum + s, 0) - experts);
  let degreeMax = 0;
  for (let n = 0; n < Math.min(nodes, 1 + spare); n++) degreeMax += Math.max(0, sizes[n] - 1);
  degreeMax = Math.min(degreeMax, experts - 1);
  let colocated = countPrice * pairsMax;
  for (let e = 0; e < experts; e++) {
    colocated += degreePrice[e] * degreeMax;
    for (let f = e + 1; f < experts; f++) colocated += Math.max(0, weight[at(e, f)] - degreePrice[e] - degreePrice[f] - countPrice);
  }
  return (constant - colocated) * unit;
}

/** Fewest co-located pairs when k experts lie on d nodes: an even split. */
function evenPairs(k: number, d: number): number {
  let pairs = 0;
  for (let n = 0; n < d; n++) {
    const size = Math.floor((k + n) / d);
    pairs += (size * (size - 1)) / 2;
  }
  return pairs;
}

/** Convex envelope of the nodes needed at a number of co-located pairs. */
function envelope(k: number, nodes: number, pairs: number): number {
  const p = Math.max(0, pairs);
  let least = 1;
  for (let d = 1; d < Math.min(k, nodes); d++) {
    const a = evenPairs(k, d);
    const b = evenPairs(k, d + 1);
    if (a > b) least = Math.max(least, d + (a - p) / (a - b));
  }
  return least;
}

function checkLoad(plan: Plan, trace: RoutingTrace, claim: LoadClaim, routes: Routes, check: Check): void {
  const layers = trace.moeLayers.length;
  const { homes, speeds } = claim;
  if (!check(claim.time.length === layers && claim.replicasMax.length === layers, 'load: a time and a number of replicas for every layer'))
    return;
  const shaped = areHomes(homes, plan, trace) && speeds.length === plan.workers.length && speeds.every((s) => s > 0);
  const all = speeds.reduce((a, b) => a + b, 0);
  const slowest = speeds.reduce((a, b) => Math.min(a, b), Infinity);
  const fastest = speeds.reduce((a, b) => Math.max(a, b), 0);
  // A plan knows no speeds, and with the right ones any plan is balanced: whoever reads the verdict has to know which they are.
  if (!check(shaped && Number.isFinite(all), `load: a home for every sequence, and a speed for every worker, ${slowest} to ${fastest}`))
    return;
  const routed = routes(homes);
  let sum = 0;
  let ratios = 0;
  let valid = true;
  for (let l = 0; l < layers; l++) {
    const rows = new Float64Array(trace.experts);
    for (let t = 0; t < trace.tokens; t++) for (const e of tokenExperts(trace, t, l)) rows[e]++;
    const total = rows.reduce((a, b) => a + b, 0);
    const t = claim.time[l];
    // Either every worker busy all the time is the limit, or at any smaller time the replicas needed would be too many, whichever way rows are split over them.
    let needed = 0;
    for (const r of rows) needed += Math.max(1, Math.ceil(r / (t * fastest)));
    if (
      !(
        t <= (total / all) * (1 + 1e-12) ||
        needed > claim.replicasMax[l] ||
        (needed === claim.replicasMax[l] && exactly(rows, t * fastest))
      )
    )
      valid = false;
    sum += total === 0 ? 1 : (t * all) / total;
    const busiest = routed[l].rows.reduce((most, r, w) => Math.max(most, r / speeds[w]), 0);
    ratios += total === 0 ? 1 : (busiest * all) / total;
    if (plan.replicas[l].reduce((n, list) => n + list.length, 0) > claim.replicasMax[l]) valid = false;
  }
  check(near(ratios / layers, claim.score), `load: peak/mean ${(ratios / layers).toFixed(6)}, claimed ${claim.score.toFixed(6)}`);
  check(valid, 'load: each layer has its proof, and the plan is in its class');
  check(
    near(sum / layers, claim.bound) || claim.bound <= sum / layers,
    `load: proven peak/mean ${(sum / layers).toFixed(6)}, claimed ${claim.bound.toFixed(6)}`,
  );
  check(claim.score >= claim.bound - 1e-6, `load: plan's peak/mean ${claim.score.toFixed(6)} is not below the bound`);
}

/** True if some expert's rows are an exact multiple of t: one replica more would be needed at any smaller time. */
function exactly(rows: Float64Array, t: number): boolean {
  return rows.some((r) => r >= t && r > 0 && Number.isInteger(r / t));
}

function checkChain(plan: Plan, trace: RoutingTrace, claim: ChainClaim, check: Check): void {
  const layers = trace.moeLayers.length;
  const { experts } = trace;
  const parts = claim.level === 'node' ? nodesOf(plan).nodes : plan.workers.length;
  // A class of fewer parts holds other plans than this one, and its equalities are not this one's.
  if (!check(claim.parts === parts, `chain: ${parts} parts, claimed ${claim.parts}`)) return;
  const within = claim.proofs.every((proof) =>
    proof.kind === 'star'
      ? proof.layer < layers - 1 && proof.before.length === experts && proof.after.length === experts
      : proof.from < proof.to && proof.to < layers,
  );
  if (!check(within, 'chain: every proof is of layers and experts of the trace')) return;
  const counts = Array.from({ length: layers - 1 }, () => new Map<number, number>());
  const partOf = (l: number, e: number) => (claim.level === 'node' ? plan.workers[plan.replicas[l][e][0]].node : plan.replicas[l][e][0]);
  let total = 0;
  let local = 0;
  for (let t = 0; t < trace.tokens; t++)
    for (let l = 0; l + 1 < layers; l++) {
      const base = (t * layers + l) * trace.topK;
      const e = trace.ids[base];
      const f = trace.ids[base + trace.topK];
      if (e === NO_EXPERT || f === NO_EXPERT) continue;
      counts[l].set(e * experts + f, (counts[l].get(e * experts + f) ?? 0) + 1);
      total++;
      if (partOf(l, e) === partOf(l + 1, f)) local++;
    }
  check(
    near(local / total, claim.score),
    `chain: ${((100 * local) / total).toFixed(4)}% of transitions stay, claimed ${(100 * claim.score).toFixed(4)}%`,
  );
  let inClass = plan.replicas.every((layer) => layer.every((workers) => workers.length === 1));
  for (let l = 0; l < layers; l++) {
    const held = new Int32Array(claim.parts);
    for (let e = 0; e < experts; e++) held[partOf(l, e)]++;
    if (held.some((h) => h > claim.partExpertsMax)) inClass = false;
  }
  check(inClass, `chain: one copy of every expert, at most ${claim.partExpertsMax} of a layer on a part`);
  const proven = new Array<number>(layers - 1).fill(Infinity);
  let sum = 0;
  for (const proof of claim.proofs) {
    const from = proof.kind === 'star' ? proof.layer : proof.from;
    const to = proof.kind === 'star' ? proof.layer + 1 : proof.to;
    for (let l = from; l < to; l++) {
      if (proven[l] !== Infinity) check(false, `chain: layers ${l} and ${l + 1} are proven twice`);
      proven[l] = 0;
    }
    sum +=
      proof.kind === 'star'
        ? starValue(proof, counts[proof.layer], experts, claim.partExpertsMax)
        : windowValue(proof, counts, experts, claim);
  }
  check(
    proven.every((p) => p === 0),
    'chain: every pair of adjacent layers has a proof',
  );
  check(claim.score <= sum / total + tolerance, 'chain: the score does not beat its own bound');
  check(
    claim.bound >= sum / total - tolerance,
    `chain: duals prove at most ${((100 * sum) / total).toFixed(4)}%, claimed ${(100 * claim.bound).toFixed(4)}%`,
  );
}

function starValue(proof: { before: number[]; after: number[] }, counts: Map<number, number>, experts: number, cap: number): number {
  if ([...proof.before, ...proof.after].some((p) => !(p >= 0))) return Infinity;
  let value = 0;
  for (let e = 0; e < experts; e++) {
    value += cap * (proof.before[e] + proof.after[e]);
    for (let f = 0; f < experts; f++) value += Math.max(0, (counts.get(e * experts + f) ?? 0) / unit - proof.before[e] - proof.after[f]);
  }
  return value * unit;
}

/** Layer and experts that the name of each row of a window's program gives. */
const rowNumbers: Record<string, number> = { R: 2, C: 2, D: 2, A: 4, B: 4, P: 4, Q: 4, T: 4 };

/** Up to here every integer is a double of its own. */
const exactMax = 2 ** 53;

/**
 * The program of a window of layers has z(l,e,g) = 1 where e of layer l and g of layer l + 1 share a part, and s(l,e,f) = 1 where e and f of layer l do. All lie in
 * [0, 1]. Its rows, by name, each "coefficients <= right side":
 *
 *   R l e:      sum over g of z(l,e,g) <= C            C l g:      sum over e of z(l,e,g) <= C
 *   D l e:      sum over f of s(l,e,f) = C - 1 (a part holds exactly C where C x parts = experts, else <=)
 *   A l e f g:  z(l,e,g) + z(l,f,g) - s(l,e,f) <= 1    B l e f x:  z(l-1,x,e) + z(l-1,x,f) - s(l,e,f) <= 1
 *   P l e f g:  z(l,e,g) - z(l,f,g) + s(l,e,f) <= 1    Q l e f x:  z(l-1,x,e) - z(l-1,x,f) + s(l,e,f) <= 1
 *   T l e f h:  s(l,e,f) + s(l,e,h) - s(l,f,h) <= 1
 *
 * Any placement satisfies all of them, so for any duals (>= 0, free for equalities) sum of dual x right side + sum over variables of max(0, reduced cost) is a bound.
 *
 * Every sum on the way is an integer of at most all counts, plus for each dual its size times the right side and the number of its variables. Where that may be more
 * than 2^53 nothing is proven; nor is it by rows that are named twice, or otherwise than above.
 */
function windowValue(
  proof: { from: number; to: number; duals: [string, number][] },
  counts: Map<number, number>[],
  experts: number,
  claim: ChainClaim,
): number {
  const cap = claim.partExpertsMax;
  const exact = cap * claim.parts === experts;
  const reduced = new Map<string, number>(); // variable -> cost minus duals, in units
  const add = (variable: string, amount: number) => reduced.set(variable, (reduced.get(variable) ?? 0) + amount);
  const z = (l: number, e: number, g: number) => `z ${l} ${e} ${g}`;
  const s = (l: number, e: number, f: number) => `s ${l} ${Math.min(e, f)} ${Math.max(e, f)}`;
  for (let l = proof.from; l < proof.to; l++)
    for (const [pair, count] of counts[l]) add(z(l, Math.floor(pair / experts), pair % experts), count / unit);
  let value = 0;
  let most = 0; // that a sum may come to, in units
  for (const cost of reduced.values()) most += cost;
  const named = new Set<string>();
  const range = Array.from({ length: experts }, (_, e) => e);
  for (const [name, dual] of proof.duals) {
    const [type, ...parts] = name.split(' ');
    const [l, e, f, g] = parts.map(Number);
    const free = type === 'D' && exact;
    if (!Number.isInteger(dual) || (dual < 0 && !free)) return Infinity;
    if (parts.length !== rowNumbers[type] || parts.some((p) => !/^(0|[1-9]\d{0,8})$/.test(p)) || named.has(name)) return Infinity;
    named.add(name);
    if ([e, f, g].some((i) => i !== undefined && i >= experts)) return Infinity;
    most += Math.abs(dual) * (4 + cap + experts);
    if (most > exactMax) return Infinity;
    // Rows of two layers take a transition inside the window with them.
    const transition = type === 'B' || type === 'Q' ? l - 1 : l;
    if (type === 'D' || type === 'T' ? l < proof.from || l > proof.to : transition < proof.from || transition >= proof.to) return Infinity;
    if (type === 'R') {
      value += dual * cap;
      for (const h of range) add(z(l, e, h), -dual);
    } else if (type === 'C') {
      value += dual * cap;
      for (const h of range) add(z(l, h, e), -dual);
    } else if (type === 'D') {
      value += dual * (cap - 1);
      for (const h of range) if (h !== e) add(s(l, e, h), -dual);
    } else {
      if (e === f || (type === 'T' && (g === e || g === f))) return Infinity;
      value += dual;
      const sign = type === 'P' || type === 'Q' ? -1 : 1;
      if (type === 'A' || type === 'P') {
        add(z(l, e, g), -dual);
        add(z(l, f, g), -sign * dual);
        add(s(l, e, f), sign * dual);
      } else if (type === 'B' || type === 'Q') {
        add(z(l - 1, g, e), -dual);
        add(z(l - 1, g, f), -sign * dual);
        add(s(l, e, f), sign * dual);
      } else if (type === 'T') {
        add(s(l, e, f), -dual);
        add(s(l, e, g), -dual);
        add(s(l, f, g), dual);
      } else return Infinity;
    }
  }
  for (const cost of reduced.values()) value += Math.max(0, cost);
  return value * unit;
}
