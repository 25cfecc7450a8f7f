import { type Random, shuffle } from '../random.ts';
import type { Transitions } from '../score/transitions.ts';
import { betterSplit, type LayerSplit } from './layer-split.ts';
import { assignToBins } from './transportation.ts';

/** Most ways to split two parts' experts that the exact re-split enumerates per layer: C(10, 5). */
const splitStatesMax = 252;

/**
 * Chain locality: maximise the transitions that stay on their part, less `loadPrice` times the peak load above the mean, summed over layers. Every part keeps the
 * number of experts per layer that it began with.
 *
 * Two exact neighbourhoods: one layer given its neighbours is a transportation problem; two parts over ALL layers, given the others, is a shortest path through the
 * ways to split their experts (Viterbi). Kicks that shuffle a few parts over a window of layers leave their joint local optima.
 *
 * Searches are generators that yield between steps of some milliseconds: whoever drives them decides whether others may run meanwhile. The placement is whole at
 * every such point.
 */
export class ChainSearch {
  readonly layers: number;
  readonly experts: number;
  readonly parts: number;
  /** (layers, experts) */
  partOf: Int32Array;
  private readonly w: Transitions;
  private readonly fair: Float64Array;
  private readonly load: Float64Array;
  loadPrice = 0;

  constructor(transitions: Transitions, parts: number, partOf: Int32Array) {
    this.w = transitions;
    this.layers = transitions.layers;
    this.experts = transitions.experts;
    this.parts = parts;
    this.partOf = partOf.slice();
    this.load = new Float64Array(this.layers * parts);
    this.fair = new Float64Array(this.layers);
    for (let l = 0; l < this.layers; l++)
      for (let e = 0; e < this.experts; e++) this.fair[l] += transitions.loads[l * this.experts + e] / parts;
    this.reload();
  }

  private reload(): void {
    this.load.fill(0);
    for (let l = 0; l < this.layers; l++)
      for (let e = 0; e < this.experts; e++)
        this.load[l * this.parts + this.partOf[l * this.experts + e]] += this.w.loads[l * this.experts + e];
  }

  /** Transitions that stay, less the load price. */
  objective(): number {
    let sum = 0;
    for (let l = 0; l < this.layers; l++) {
      let peak = 0;
      for (let p = 0; p < this.parts; p++) peak = Math.max(peak, this.load[l * this.parts + p]);
      sum -= this.loadPrice * (peak - this.fair[l]);
      if (l === this.layers - 1) continue;
      const counts = this.w.counts[l];
      for (let e = 0; e < this.experts; e++) {
        const p = this.partOf[l * this.experts + e];
        for (let f = 0; f < this.experts; f++) if (this.partOf[(l + 1) * this.experts + f] === p) sum += counts[e * this.experts + f];
      }
    }
    return sum;
  }

  set(partOf: Int32Array): void {
    this.partOf.set(partOf);
    this.reload();
  }

  /** Places every layer afresh as the best response to the layers before it: a good start from any first layer. */
  *sweepForward(stop: () => boolean): Generator<void> {
    for (let l = 1; l < this.layers && !stop(); l++) {
      yield;
      this.respond(l, true, false);
    }
    this.reload();
  }

  /** One exact best response of layer l (locality only). */
  private respond(l: number, before: boolean, after: boolean): void {
    const { experts, parts, partOf } = this;
    const cost = new Float64Array(experts * parts);
    if (before && l > 0)
      for (let e = 0; e < experts; e++) {
        const p = partOf[(l - 1) * experts + e];
        for (let f = 0; f < experts; f++) cost[f * parts + p] -= this.w.counts[l - 1][e * experts + f];
      }
    if (after && l < this.layers - 1)
      for (let f = 0; f < experts; f++) {
        const p = partOf[(l + 1) * experts + f];
        for (let e = 0; e < experts; e++) cost[e * parts + p] -= this.w.counts[l][e * experts + f];
      }
    const capacity = new Int32Array(parts);
    for (let e = 0; e < experts; e++) capacity[partOf[l * experts + e]]++;
    partOf.set(assignToBins(cost, capacity), l * experts);
  }

  /** Sweeps of best responses until none gains (only without a load price). */
  *respondAll(stop: () => boolean): Generator<void> {
    let best = this.objective();
    for (let sweep = 0; sweep < 20 && !stop(); sweep++) {
      for (let l = 0; l < this.layers && !stop(); l++) {
        yield;
        this.respond(l, true, true);
      }
      this.reload();
      const now = this.objective();
      if (now <= best * (1 + 1e-9)) break;
      best = now;
    }
  }

  /** Re-splits the experts of parts a and b over all layers, exactly where the splits can be listed. Returns true if the objective rose. */
  *resplit(a: number, b: number): Generator<void, boolean> {
    const { layers, experts, partOf } = this;
    const members: number[][] = [];
    const sizeA: number[] = [];
    let most = 0;
    for (let l = 0; l < layers; l++) {
      const inA: number[] = [];
      const inB: number[] = [];
      for (let e = 0; e < experts; e++) {
        const p = partOf[l * experts + e];
        if (p === a) inA.push(e);
        else if (p === b) inB.push(e);
      }
      members.push([...inA, ...inB]);
      sizeA.push(inA.length);
      most = Math.max(most, splits(inA.length + inB.length, inA.length).masks.length);
    }
    return most <= splitStatesMax ? this.resplitExactly(a, b, members, sizeA) : yield* this.resplitByLayer(a, b, members, sizeA);
  }

  private resplitExactly(a: number, b: number, members: number[][], sizeA: number[]): boolean {
    const { layers, experts, parts, partOf } = this;
    const { counts, loads } = this.w;
    let value: Float64Array = new Float64Array(0);
    const cameFrom: Int32Array[] = [];
    let before: ReturnType<typeof splits> | null = null;
    for (let l = 0; l < layers; l++) {
      const group = members[l];
      const states = splits(group.length, sizeA[l]);
      const number = states.masks.length;
      const next = new Float64Array(number);
      const from = new Int32Array(number);
      if (before === null) next.fill(0);
      else {
        next.fill(-Infinity);
        const previous = members[l - 1];
        const width = group.length;
        const local = new Float64Array(previous.length * width);
        const column = new Float64Array(width);
        for (let i = 0; i < previous.length; i++)
          for (let j = 0; j < width; j++) {
            local[i * width + j] = counts[l - 1][previous[i] * experts + group[j]];
            column[j] += local[i * width + j];
          }
        // A split S before and T after keep: (S x T) + (rest x rest) = sum of rest's rows + sum over T of (2 row_S - column).
        const d = new Float64Array(width);
        const half = width >> 1;
        const lowSums = new Float64Array(1 << half);
        const highSums = new Float64Array(1 << (width - half));
        for (let s = 0; s < value.length; s++) {
          d.fill(0);
          const chosen = before.members[s];
          for (let c = 0; c < chosen.length; c++) {
            const i = chosen[c];
            for (let j = 0; j < width; j++) d[j] += local[i * width + j];
          }
          let base = value[s];
          for (let j = 0; j < width; j++) {
            base += column[j] - d[j];
            d[j] = 2 * d[j] - column[j];
          }
          // The sum over T is looked up in two halves: all sums of the first positions, all sums of the last.
          subsetSums(d, 0, half, lowSums);
          subsetSums(d, half, width, highSums);
          const { low, high } = states;
          for (let t = 0; t < number; t++) {
            const v = base + lowSums[low[t]] + highSums[high[t]];
            if (v > next[t]) {
              next[t] = v;
              from[t] = s;
            }
          }
        }
      }
      if (this.loadPrice > 0) {
        let others = 0;
        let both = 0;
        for (let p = 0; p < parts; p++) {
          if (p === a || p === b) both += this.load[l * parts + p];
          else others = Math.max(others, this.load[l * parts + p]);
        }
        for (let t = 0; t < number; t++) {
          let own = 0;
          for (const c of states.members[t]) own += loads[l * experts + group[c]];
          next[t] -= this.loadPrice * (Math.max(others, own, both - own) - this.fair[l]);
        }
      }
      cameFrom.push(from);
      value = next;
      before = states;
    }
    let state = 0;
    for (let t = 1; t < value.length; t++) if (value[t] > value[state] + 1e-9) state = t;
    // State 0 in every layer is the present split only by its mask: compare by value instead.
    const present = this.pairValue(a, b);
    if (value[state] <= present + 1e-7 * (1 + Math.abs(present))) return false;
    for (let l = layers - 1; l >= 0; l--) {
      const group = members[l];
      for (const e of group) partOf[l * experts + e] = b;
      for (const c of splits(group.length, sizeA[l]).members[state]) partOf[l * experts + group[c]] = a;
      let own = 0;
      let other = 0;
      for (const e of group) {
        if (partOf[l * experts + e] === a) own += loads[l * experts + e];
        else other += loads[l * experts + e];
      }
      this.load[l * parts + a] = own;
      this.load[l * parts + b] = other;
      state = cameFrom[l][state];
    }
    return true;
  }

  /** What `resplitExactly` maximises, at the present split. */
  private pairValue(a: number, b: number): number {
    const { layers, experts, parts, partOf } = this;
    let sum = 0;
    for (let l = 0; l < layers; l++) {
      if (this.loadPrice > 0) {
        let peak = 0;
        for (let p = 0; p < parts; p++) peak = Math.max(peak, this.load[l * parts + p]);
        sum -= this.loadPrice * (peak - this.fair[l]);
      }
      if (l === layers - 1) continue;
      for (let e = 0; e < experts; e++) {
        const p = partOf[l * experts + e];
        if (p !== a && p !== b) continue;
        for (let f = 0; f < experts; f++) if (partOf[(l + 1) * experts + f] === p) sum += this.w.counts[l][e * experts + f];
      }
    }
    return sum;
  }

  /** For large parts: layer after layer, the best split found given its neighbours and the load, until nothing gains. */
  private *resplitByLayer(a: number, b: number, members: number[][], sizeA: number[]): Generator<void, boolean> {
    const { layers, experts, partOf } = this;
    let gained = false;
    for (let sweep = 0, changed = true; changed && sweep < 6; sweep++) {
      changed = false;
      yield;
      for (let l = 0; l < layers; l++) {
        const present = Uint8Array.from(members[l], (e) => (partOf[l * experts + e] === a ? 1 : 0));
        const next = betterSplit(this.layerSplit(a, b, l, members, sizeA[l]), present);
        if (next === null) continue;
        changed = gained = true;
        members[l].forEach((e, i) => {
          this.move(l, e, next[i] === 1 ? a : b);
        });
      }
    }
    return gained;
  }

  private move(l: number, e: number, to: number): void {
    const { experts, parts, partOf, load } = this;
    load[l * parts + partOf[l * experts + e]] -= this.w.loads[l * experts + e];
    load[l * parts + to] += this.w.loads[l * experts + e];
    partOf[l * experts + e] = to;
  }

  private layerSplit(a: number, b: number, l: number, members: number[][], size: number): LayerSplit {
    const { layers, experts, parts, partOf, loadPrice } = this;
    const { counts, loads } = this.w;
    const gain = Float64Array.from(members[l], (e) => {
      let g = 0;
      if (l > 0) for (const x of members[l - 1]) g += (partOf[(l - 1) * experts + x] === a ? 1 : -1) * counts[l - 1][x * experts + e];
      if (l < layers - 1) for (const x of members[l + 1]) g += (partOf[(l + 1) * experts + x] === a ? 1 : -1) * counts[l][e * experts + x];
      return g;
    });
    let othersPeak = 0;
    for (let p = 0; p < parts; p++) if (p !== a && p !== b) othersPeak = Math.max(othersPeak, this.load[l * parts + p]);
    return { gain, load: Float64Array.from(members[l], (e) => loads[l * experts + e]), size, loadPrice, othersPeak };
  }

  /** Re-splits pairs until none gains; only pairs with a part that changed since they were last tried. */
  *resplitAll(dirty: Iterable<number>, stop: () => boolean): Generator<void> {
    const pending = new Set(dirty);
    while (pending.size > 0) {
      const a = pending.values().next().value!;
      pending.delete(a);
      for (let b = 0; b < this.parts; b++) {
        if (b === a) continue;
        yield;
        if (stop()) return;
        if (!(yield* this.resplit(a, b))) continue;
        pending.add(a);
        pending.add(b);
      }
    }
  }

  /** Iterated local search: kick a few parts in a window of layers, repair exactly, keep what is not worse. */
  *kickUntil(random: Random, kicks: number, stop: () => boolean, onImproved: (objective: number) => void): Generator<void> {
    let best = this.objective();
    for (let kick = 0; kick < kicks && !stop(); kick++) {
      const held = this.partOf.slice();
      const chosen = shuffle(
        Array.from({ length: this.parts }, (_, p) => p),
        random,
      ).slice(0, Math.min(this.parts, 2 + random.below(3)));
      const from = random.below(this.layers);
      const to = Math.min(this.layers, from + 1 + random.below(Math.max(2, this.layers >> 2)));
      const strength = 0.3 + 0.7 * random.next();
      for (let l = from; l < to; l++) {
        const members: number[] = [];
        for (let e = 0; e < this.experts; e++)
          if (chosen.includes(this.partOf[l * this.experts + e]) && random.next() < strength) members.push(e);
        const labels = shuffle(
          members.map((e) => this.partOf[l * this.experts + e]),
          random,
        );
        members.forEach((e, i) => {
          this.partOf[l * this.experts + e] = labels[i];
        });
      }
      this.reload();
      yield* this.resplitAll(chosen, stop);
      const now = this.objective();
      if (now >= best - 1e-9) {
        if (now > best + 1e-9) onImproved(now);
        best = Math.max(best, now);
      } else this.set(held);
    }
  }
}

interface Splits {
  masks: number[];
  /** Positions chosen by each mask. */
  members: Int32Array[];
  /** The masks' bits below and above half of the positions. */
  low: Int32Array;
  high: Int32Array;
}

/** Sums of every subset of values[from..to), by its bits. */
function subsetSums(values: Float64Array, from: number, to: number, out: Float64Array): void {
  out[0] = 0;
  for (let i = from; i < to; i++) {
    const bit = 1 << (i - from);
    for (let m = 0; m < bit; m++) out[bit + m] = out[m] + values[i];
  }
}

const splitCache = new Map<string, Splits>();

/** All ways to choose `size` of `count` positions. Refuses to list more than the bound: then only the number matters. */
function splits(count: number, size: number): Splits {
  const key = `${count} ${size}`;
  let known = splitCache.get(key);
  if (known === undefined) {
    let ways = 1;
    for (let i = 0; i < size; i++) ways = (ways * (count - i)) / (i + 1);
    if (ways > splitStatesMax || count > 30)
      known = { masks: new Array(splitStatesMax + 1).fill(0), members: [], low: new Int32Array(0), high: new Int32Array(0) };
    else {
      const members: Int32Array[] = [];
      const masks: number[] = [];
      const choose = (from: number, taken: number[]) => {
        if (taken.length === size) {
          members.push(Int32Array.from(taken));
          masks.push(taken.reduce((m, i) => m | (1 << i), 0));
          return;
        }
        for (let i = from; i <= count - (size - taken.length); i++) choose(i + 1, [...taken, i]);
      };
      choose(0, []);
      const half = count >> 1;
      known = {
        masks,
        members,
        low: Int32Array.from(masks, (m) => m & ((1 << half) - 1)),
        high: Int32Array.from(masks, (m) => m >>> half),
      };
    }
    splitCache.set(key, known);
  }
  return known;
}
