import { eplbGlobal } from '../baselines/eplb.ts';
import type { Random } from '../random.ts';

/** One layer's loads and the room for them. Replicas split a load evenly; a worker's time is its rows over its speed. */
export interface LoadProblem {
  /** Rows per expert, (experts). */
  loads: Float64Array;
  /** Replicas that each worker may hold, (workers). */
  slots: Int32Array;
  /** (workers) */
  speed: Float64Array;
}

/** Count shifts that are tried however late it is: the first are worth most, and cost less than a millisecond. */
const leastEffort = 2;

/** Workers of every expert, ascending, no worker twice, (experts) of (replicas). */
export type Replicas = number[][];

interface Packed {
  workersOf: Replicas;
  peak: number;
}

/**
 * Minimises the largest load per worker: replica counts and packing together. A start (counts by the heaviest replica; `start` if given), then count shifts, each
 * followed by a fresh packing and swaps against the fullest worker. Deterministic for a given `random`.
 *
 * @param effort count shifts tried at most
 */
export function balanceLoads(
  problem: LoadProblem,
  random: Random,
  effort: number,
  start: Replicas | null = null,
  stop: () => boolean = () => false,
): Packed {
  const { loads, slots } = problem;
  const experts = loads.length;
  const workers = slots.length;
  const total = Math.min(
    slots.reduce((a, b) => a + b, 0),
    experts * workers,
  );
  if (total < experts) throw new RangeError(`balanceLoads: ${experts} experts do not fit ${total} slots`);
  let counts = greedyCounts(loads, total, workers);
  let best = pack(problem, counts);
  for (const list of [start, eplbStart(problem, total)]) {
    if (list === null) continue;
    const own = evenOut(
      problem,
      list.map((workersOf) => [...workersOf]),
    );
    if (own.peak < best.peak) {
      best = own;
      counts = Int32Array.from(own.workersOf, (workersOf) => workersOf.length);
    }
  }
  const bound = loadBound(problem);
  let current = best;
  for (let tried = 0; tried < effort && best.peak > bound * (1 + 1e-12) && (tried < leastEffort || !stop()); tried++) {
    // Annealing on the peak: early shifts may worsen it by a few percent, late ones hardly.
    const patience = 0.06 * (1 - tried / effort) ** 2;
    if (tried > 0 && tried % 256 === 0 && current.peak > best.peak * (1 + patience)) {
      current = best;
      counts = Int32Array.from(best.workersOf, (list) => list.length);
    }
    const shifted = shiftCounts(counts, total, workers, random);
    const next = shifted === null ? shake(problem, current.workersOf, random) : pack(problem, shifted);
    if (next.peak > current.peak * (1 + patience * random.next())) continue;
    current = next;
    counts = Int32Array.from(next.workersOf, (list) => list.length);
    if (next.peak < best.peak) best = next;
  }
  return best;
}

/** EPLB's own plan, where it exists (equal slots): whatever is found is at least as good. Replicas that it doubles on a worker count once. */
function eplbStart(problem: LoadProblem, total: number): Replicas | null {
  const { loads, slots } = problem;
  if (slots.some((s) => s !== slots[0]) || total !== slots[0] * slots.length) return null;
  return eplbGlobal(loads, total, slots.length).workersOf.map((list) => [...new Set(list)]);
}

/** One to three replicas change their expert, or one goes away (on uneven workers a slot may better stay empty); null where no slot is spare, or sometimes to let the packing be shaken instead. */
function shiftCounts(counts: Int32Array, total: number, workers: number, random: Random): Int32Array | null {
  const shifted = counts.slice();
  let spare = total - shifted.reduce((a, b) => a + b, 0);
  const shifts = random.next() < 0.15 ? 0 : 1 + random.below(3);
  let changed = false;
  for (let i = 0; i < shifts; i++) {
    const from = random.below(counts.length);
    const to = random.below(counts.length);
    if (from === to || shifted[to] >= workers) continue;
    if (random.next() < 0.1) {
      if (shifted[from] < 2) continue;
      shifted[from]--;
      spare++;
      changed = true;
      continue;
    }
    if (spare > 0) spare--;
    else if (shifted[from] >= 2) shifted[from]--;
    else continue;
    shifted[to]++;
    changed = true;
  }
  return changed ? shifted : null;
}

function greedyCounts(loads: Float64Array, total: number, workers: number): Int32Array {
  const counts = new Int32Array(loads.length).fill(1);
  for (let used = loads.length; used < total; used++) {
    let best = -1;
    for (let e = 0; e < loads.length; e++)
      if (counts[e] < workers && (best < 0 || loads[e] / counts[e] > loads[best] / counts[best])) best = e;
    if (best < 0) break;
    counts[best]++;
  }
  return counts;
}

/** Heaviest replicas first, each on the worker that it leaves least loaded, among those with room and without this expert; then swaps. */
function pack(problem: LoadProblem, counts: Int32Array): Packed {
  const { loads, slots, speed } = problem;
  const workers = slots.length;
  const load = new Float64Array(workers);
  const room = slots.slice();
  const items: number[] = [];
  counts.forEach((count, e) => {
    for (let i = 0; i < count; i++) items.push(e);
  });
  const shareOf = loads.map((load, e) => load / counts[e]);
  items.sort((a, b) => shareOf[b] - shareOf[a] || a - b);
  const workersOf: Replicas = Array.from({ length: loads.length }, () => []);
  let left = items.length;
  let free = room.reduce((a, b) => a + b, 0);
  for (const e of items) {
    const share = shareOf[e];
    let best = -1;
    let least = Infinity;
    for (let w = 0; w < workers; w++) {
      const after = (load[w] + share) / speed[w];
      if (room[w] <= 0 || after >= least || workersOf[e].includes(w)) continue;
      best = w;
      least = after;
    }
    left--;
    if (best < 0) {
      // Every worker with room holds this expert already: do with fewer replicas, unless it has none at all.
      if (workersOf[e].length > 0) continue;
      throw new RangeError('balanceLoads: no room for an expert');
    }
    workersOf[e].push(best);
    load[best] += share;
    room[best]--;
    free--;
  }
  if (left !== 0 || free < 0) throw new RangeError('balanceLoads: slots do not add up');
  return evenOut(problem, workersOf);
}

/** Swaps (and moves into free slots) between the fullest worker and others while the pair's larger load falls, by this share of it at least. Changes `workersOf`. */
export function evenOut(problem: LoadProblem, workersOf: Replicas, gainMin = 1e-12): Packed {
  const { loads, slots, speed } = problem;
  const workers = slots.length;
  const load = new Float64Array(workers);
  const holds: number[][] = Array.from({ length: workers }, () => []);
  const held = new Uint8Array(loads.length * workers); // 1: the worker holds the expert
  const shareOf = loads.map((own, e) => own / workersOf[e].length);
  workersOf.forEach((list, e) => {
    for (const w of list) {
      load[w] += shareOf[e];
      holds[w].push(e);
      held[e * workers + w] = 1;
    }
  });
  for (let round = 0; round < 20 * workers; round++) {
    let top = 0;
    for (let w = 1; w < workers; w++) if (load[w] / speed[w] > load[top] / speed[top]) top = w;
    const peak = load[top] / speed[top];
    let best = { peak: peak * (1 - gainMin), e: -1, w: -1, f: -1 };
    for (const e of holds[top]) {
      const own = shareOf[e];
      for (let w = 0; w < workers; w++) {
        if (held[e * workers + w] === 1) continue;
        if (holds[w].length < slots[w]) {
          const after = Math.max((load[top] - own) / speed[top], (load[w] + own) / speed[w]);
          if (after < best.peak) best = { peak: after, e, w, f: -1 };
        }
        // What comes back must leave the fullest worker better off than the best so far, and the other one no worse.
        let most = Math.min(own, best.peak * speed[top] - load[top] + own);
        let least = load[w] + own - best.peak * speed[w];
        if (least >= most) continue;
        for (const f of holds[w]) {
          const other = shareOf[f];
          if (other <= least || other >= most || held[f * workers + top] === 1) continue;
          best = { peak: Math.max((load[top] - own + other) / speed[top], (load[w] + own - other) / speed[w]), e, w, f };
          most = Math.min(own, best.peak * speed[top] - load[top] + own);
          least = load[w] + own - best.peak * speed[w];
        }
      }
    }
    if (best.e < 0) break;
    const { e, w, f } = best;
    const move = (moved: number, from: number, to: number) => {
      load[from] -= shareOf[moved];
      load[to] += shareOf[moved];
      workersOf[moved][workersOf[moved].indexOf(from)] = to;
      holds[from].splice(holds[from].indexOf(moved), 1);
      holds[to].push(moved);
      held[moved * workers + from] = 0;
      held[moved * workers + to] = 1;
    };
    move(e, top, w);
    if (f >= 0) move(f, w, top);
  }
  for (const list of workersOf) list.sort((a, b) => a - b);
  return { workersOf, peak: peakOf(problem, workersOf) };
}

/** A few random swaps, then evened out: for layers without spare slots. */
function shake(problem: LoadProblem, workersOf: Replicas, random: Random): Packed {
  const next = workersOf.map((list) => [...list]);
  for (let i = 0; i < 3; i++) {
    const e = random.below(next.length);
    const f = random.below(next.length);
    const a = next[e][random.below(next[e].length)];
    const b = next[f][random.below(next[f].length)];
    if (e === f || a === b || next[e].includes(b) || next[f].includes(a)) continue;
    next[e][next[e].indexOf(a)] = b;
    next[f][next[f].indexOf(b)] = a;
  }
  return evenOut(problem, next);
}

/** Largest load over speed with even splits. */
export function peakOf(problem: LoadProblem, workersOf: Replicas): number {
  const load = new Float64Array(problem.slots.length);
  workersOf.forEach((list, e) => {
    for (const w of list) load[w] += problem.loads[e] / list.length;
  });
  return load.reduce((peak, l, w) => Math.max(peak, l / problem.speed[w]), 0);
}

/**
 * No placement with even splits has a smaller peak than this. For a peak t on workers of speed s and m = max(s): expert e needs at least ceil(load / (t m)) replicas,
 * each of load at most t m. The bound is the smallest t at which (a) the total fits the speeds, (b) the needed replicas fit the slots, and (c) on equal workers, the
 * replicas that are forced to be large do not crowd each other: see `crowded`.
 */
export function loadBound(problem: LoadProblem): number {
  const { loads, slots, speed } = problem;
  const total = loads.reduce((a, b) => a + b, 0);
  const fastest = speed.reduce((a, b) => Math.max(a, b), 0);
  const slotCount = slots.reduce((a, b) => a + b, 0);
  let low = total / speed.reduce((a, b) => a + b, 0);
  let high = Math.max(low, loads.reduce((a, b) => Math.max(a, b), 0) / fastest + total / fastest);
  const possible = (t: number) => {
    let needed = 0;
    for (const load of loads) needed += Math.max(1, Math.ceil(load / (t * fastest) - 1e-12));
    return needed <= slotCount && !crowded(problem, t * fastest);
  };
  if (possible(low)) return low;
  for (let i = 0; i < 60; i++) {
    const middle = (low + high) / 2;
    if (possible(middle)) high = middle;
    else low = middle;
  }
  return low;
}

/**
 * True if no packing can keep every worker at or below `t` (equal slots and speeds; false otherwise: nothing proven). Without spare slots every expert has one
 * replica, all slots are full, and counting arguments bind; with spare slots the replica counts are free and nothing is claimed.
 */
function crowded(problem: LoadProblem, t: number): boolean {
  const { loads, slots, speed } = problem;
  const workers = slots.length;
  if (slots.some((s) => s !== slots[0]) || speed.some((s) => s !== speed[0])) return false;
  const spare = slots[0] * workers - loads.length;
  if (spare !== 0) return false;
  const sorted = Float64Array.from(loads).sort().reverse();
  const perWorker = slots[0];
  const last = sorted.length - 1;
  const limit = t * (1 + 1e-12);
  // With two slots per worker, some one of the i + 1 largest is beside an expert that is not among the i smallest (or beside another of the largest).
  if (perWorker === 2) for (let i = 0; i < workers; i++) if (sorted[i] + sorted[last - i] > limit) return true;
  for (let j = 1; j < perWorker; j++) {
    // Of the j x workers + 1 largest, j + 1 share a worker, whose other slots hold at best the smallest of all.
    let least = 0;
    for (let i = 0; i <= j; i++) least += sorted[j * workers - i];
    for (let i = 0; i < perWorker - j - 1; i++) least += sorted[last - i];
    if (least > limit) return true;
  }
  // The q largest occupy m workers, whose slots are full: their mean is at least (the q largest + the smallest to fill up) / m.
  let top = 0;
  for (let q = 1; q <= workers; q++) {
    top += sorted[q - 1];
    let least = Infinity;
    let fill = 0;
    let filled = 0;
    for (let m = Math.ceil(q / perWorker); m <= q; m++) {
      while (filled < m * perWorker - q) fill += sorted[last - filled++];
      least = Math.min(least, (top + fill) / m);
    }
    if (least > limit) return true;
  }
  return false;
}
