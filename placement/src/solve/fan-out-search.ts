import { popcount } from '../cluster/node-set.ts';
import { runInTurns, runThrough, type Steps } from '../steps.ts';
import { entriesOf, histogramsOf, type PatternHistogram } from '../trace/pattern-histogram.ts';
import type { RoutingTrace } from '../trace/routing-trace.ts';
import { assignHomes, type HomeBalance } from './balanced-homes.ts';
import { exchangeMoves } from './exchange-moves.ts';
import { fitMemory } from './fit-memory.ts';
import { GainHeap } from './gain-heap.ts';
import { type LayerPrices, LayerSearch } from './layer-search.ts';
import { nearestPlaces } from './node-places.ts';
import { relieveInRounds, restingPeakPrice } from './relief.ts';
import { assignToBins } from './transportation.ts';

/** A node-level placement: which nodes hold each expert, and where each sequence lives. */
export interface NodePlacement {
  /** Nodes as bits, (layers) of (experts). */
  masks: Int32Array[];
  /** Home node of each sequence of the trace it was fitted on, (sequences). */
  homeOf: Int32Array;
  /** Weighted remote visits plus penalties, on the fitted tokens. */
  objective: number;
}

export interface FanOutSearchOptions {
  /** Experts each node can hold, all layers together, (nodes). */
  slots: Int32Array;
  /** Experts that fit each node whatever the plan is limited to, (nodes): nodes are alike by this, for a limit rounds alike nodes apart. By default `slots`. */
  memory?: Int32Array;
  /** Experts that all nodes together may hold, where that is less than their slots. */
  copiesMax?: number;
  balance: HomeBalance;
  prices: LayerPrices;
  /** Peak over mean rows of the nodes, mean over layers, to end at: the price of peaks is moved until it is so. Infinity: the price stays as given. */
  peakMeanMax: number;
  /** Weight of each sequence's tokens, (sequences); null: 1. */
  sequenceWeight: Float64Array | null;
  /** Asked between steps: true ends the search with what it has. */
  stop: () => boolean;
  /** Awaited between steps, so that whoever shares the thread can run (and abort). */
  pause: () => Promise<void>;
  /** Candidates verified per pass and layer. */
  candidatesMax: number;
  /** Of the trace, if known already. */
  histograms?: PatternHistogram[];
  onImproved: (objective: number) => void;
}

/** Between which the price of peaks is sought. */
const peakPriceMin = 0.02;
const peakPriceMax = 20;

/** So near to its limit a mean peak is where it should be. */
const peakMeanNear = 0.005;

/**
 * Co-clusters sequences and experts over nodes, replicas included, under one memory budget per node. Alternates exact steps: swaps and moves inside a layer,
 * replica exchanges across layers, and a new balanced choice of homes; each keeps or lowers the exact objective.
 */
export class FanOutSearch {
  readonly trace: RoutingTrace;
  readonly options: FanOutSearchOptions;
  readonly prices: LayerPrices;
  readonly layers: LayerSearch[];
  private readonly nodes: number;
  /** Experts that each node could still hold, (nodes). */
  readonly free: Int32Array;
  /** Home node of each sequence, (sequences). */
  homeOf: Int32Array;

  private readonly hasRoom = (node: number): boolean => this.free[node] > 0;
  private readonly onMove = (from: number, to: number): void => {
    this.free[from]++;
    this.free[to]--;
  };

  /** @param homeOf home node of each sequence, (sequences); null: to be chosen by `settleSteps` before anything else */
  constructor(trace: RoutingTrace, homeOf: Int32Array | null, options: FanOutSearchOptions) {
    this.trace = trace;
    this.options = options;
    this.homeOf = homeOf === null ? new Int32Array(trace.sequences.length) : homeOf.slice();
    this.nodes = options.slots.length;
    this.free = options.slots.slice();
    this.prices = { ...options.prices };
    const histograms = options.histograms ?? histogramsOf(trace);
    this.layers = histograms.map((histogram) => new LayerSearch(histogram, trace.topK, trace.experts, this.nodes, this.prices));
    if (homeOf !== null) this.spreadHomes();
  }

  /** Copies that may be added yet, wherever nodes have room; below 0 where there are too many. */
  get spare(): number {
    const { slots, copiesMax = Infinity } = this.options;
    return copiesMax - slots.reduce((sum, own, n) => sum + own - this.free[n], 0);
  }

  private spreadHomes(): void {
    runThrough(this.spreadHomesSteps());
  }

  private *spreadHomesSteps(): Steps<void> {
    const { trace } = this;
    const weight = this.options.sequenceWeight;
    const homeOf = Uint8Array.from(trace.sequenceOf, (s) => this.homeOf[s]);
    const weightOf = weight === null ? null : Float64Array.from(trace.sequenceOf, (s) => weight[s]);
    const scratch = new Float64Array(this.layers.reduce((most, { histogram }) => Math.max(most, histogram.patterns), 0) * this.nodes);
    for (const layer of this.layers) {
      layer.setEntries(entriesOf(layer.histogram, homeOf, weightOf, this.nodes, scratch));
      yield;
    }
  }

  objective(): number {
    return this.layers.reduce((sum, layer) => sum + layer.objective(), 0);
  }

  /** Weighted remote nodes of all tokens and layers, without prices. */
  remoteNodes(): number {
    return this.layers.reduce((sum, layer) => sum + layer.remoteNodes, 0);
  }

  result(): NodePlacement {
    return { masks: this.layers.map((layer) => layer.maskOf.slice()), homeOf: this.homeOf.slice(), objective: this.objective() };
  }

  /** Rows that each expert is served on each node, (layers) of (experts, nodes), weighted. */
  served(): Float64Array[] {
    return this.layers.map((layer) => layer.served);
  }

  /** Starts from given holders. */
  load(masks: readonly ArrayLike<number>[]): void {
    this.hold(masks);
    for (const layer of this.layers) layer.reprice();
  }

  /** Starts from given holders, with the homes that are cheapest for them: every token is priced once. */
  *settleSteps(masks: readonly ArrayLike<number>[]): Steps<void> {
    this.hold(masks);
    yield* this.chooseHomesSteps();
  }

  private hold(masks: readonly ArrayLike<number>[]): void {
    this.free.set(this.options.slots);
    this.layers.forEach(({ maskOf }, l) => {
      maskOf.set(masks[l]);
      for (const mask of maskOf) for (let n = 0; n < this.nodes; n++) if ((mask >>> n) & 1) this.free[n]--;
    });
  }

  /** Goes on from holders and homes of this trace. */
  resume({ masks, homeOf }: Omit<NodePlacement, 'objective'>): void {
    this.homeOf = homeOf.slice();
    this.spreadHomes();
    this.load(masks);
  }

  /** One copy of every expert, on the node whose sequences use it most: the layers' best responses to the homes, an exact transportation problem each. */
  placeSingles(): void {
    const { trace, nodes } = this;
    const { experts } = trace;
    const totalSlots = this.options.slots.reduce((a, b) => a + b, 0);
    const given = new Float64Array(nodes);
    const masks = this.layers.map((layer, l) => {
      const cost = layer.demandOf.map((rows) => -rows);
      // Node n has room for this many by now if all layers take alike; the fractions carry over to later layers. One that got ahead by rounding waits. Given and room
      // together never exceed a node's slots, so none ends with more than it holds.
      const capacity = new Int32Array(nodes);
      let placed = 0;
      for (let n = 0; n < nodes; n++) {
        capacity[n] = Math.max(0, Math.floor(((l + 1) * experts * this.options.slots[n]) / totalSlots - given[n] + 1e-9));
        placed += capacity[n];
      }
      const byNeed = Array.from({ length: nodes }, (_, n) => n).sort(
        (a, b) =>
          given[a] +
            capacity[a] -
            ((l + 1) * experts * this.options.slots[a]) / totalSlots -
            (given[b] + capacity[b] - ((l + 1) * experts * this.options.slots[b]) / totalSlots) || a - b,
      );
      for (let i = 0; placed < experts; i = (i + 1) % nodes) {
        if (given[byNeed[i]] + capacity[byNeed[i]] >= this.options.slots[byNeed[i]]) continue;
        capacity[byNeed[i]]++;
        placed++;
      }
      const nodeFor = assignToBins(cost, capacity);
      for (const n of nodeFor) given[n]++;
      return nodeFor.map((n) => 1 << n);
    });
    this.load(masks);
  }

  /** Swaps and moves in every layer until a whole round gains less than `share` of the objective. */
  async improveLayers(roundsMax: number, share: number): Promise<void> {
    for (const layer of this.layers) {
      await this.options.pause();
      for (let round = 0; round < roundsMax; round++) {
        if (this.options.stop()) return;
        const gained = layer.improve(this.hasRoom, this.onMove, this.options.candidatesMax);
        if (gained <= share * layer.objective()) break;
      }
    }
    this.options.onImproved(this.objective());
  }

  /** Where the holders that were loaded need more memory than there is, or are too many. */
  fitMemory(): void {
    fitMemory(this);
  }

  /** Takes load from nodes that stand out until the mean peak is within the limit, at least cost in visits: for a plan that was found on fewer tokens, or on other ones. */
  relieve(limit: number, price: number): void {
    runThrough(this.relieveSteps(limit, price));
  }

  relieveSteps(limit: number, price: number): Steps<void> {
    return relieveInRounds(this, limit, price, { has: this.hasRoom, onMove: this.onMove });
  }

  /** Fills free memory with the replicas worth most, by the exact gain at the time of choice (lazy greedy over all layers at once). */
  addReplicas(budget = Infinity): number {
    const { nodes } = this;
    if (this.options.stop() || this.free.every((f) => f <= 0)) return 0;
    const { experts } = this.trace;
    const count = this.layers.length;
    const gain = new Float64Array(count * experts * nodes);
    const scratch = { add: new Float64Array(nodes), drop: new Float64Array(nodes), keep: new Float64Array(nodes * nodes) };
    const refresh = (l: number, e: number) => {
      this.layers[l].gains(e, scratch.add, scratch.drop, scratch.keep);
      for (let n = 0; n < nodes; n++) gain[(l * experts + e) * nodes + n] = (this.layers[l].maskOf[e] >>> n) & 1 ? 0 : scratch.add[n];
    };
    for (let l = 0; l < count && !this.options.stop(); l++) for (let e = 0; e < experts; e++) refresh(l, e);
    const heap = new GainHeap(gain);
    const most = Math.min(budget, this.spare);
    let added = 0;
    while (added < most && this.free.some((f) => f > 0) && !this.options.stop()) {
      const top = heap.pop();
      if (top < 0) break;
      const n = top % nodes;
      const e = Math.floor(top / nodes) % experts;
      const l = Math.floor(top / (nodes * experts));
      const layer = this.layers[l];
      if (this.free[n] <= 0 || (layer.maskOf[e] >>> n) & 1) continue;
      const stale = gain[top];
      refresh(l, e);
      if (gain[top] < stale - 1e-9 && gain[top] < heap.peek()) {
        if (gain[top] > 0) heap.push(top);
        continue;
      }
      if (gain[top] <= 0) continue;
      if (layer.tryChange(e, layer.maskOf[e] | (1 << n), -1, 0) === 0) continue;
      this.free[n]--;
      added++;
      refresh(l, e);
      for (let m = 0; m < nodes; m++) if (gain[(l * experts + e) * nodes + m] > 0) heap.push((l * experts + e) * nodes + m);
    }
    this.options.onImproved(this.objective());
    return added;
  }

  /** On each node, trades the replicas that save least for the additions that save most, across layers: one budget for all. Returns what it gained. */
  exchangeReplicas(): number {
    const { nodes } = this;
    if (this.options.stop()) return 0;
    const { experts } = this.trace;
    const scratch = { add: new Float64Array(nodes), drop: new Float64Array(nodes), keep: new Float64Array(nodes * nodes) };
    const adds: { gain: number; l: number; e: number; n: number }[] = [];
    const drops: { loss: number; l: number; e: number; n: number }[] = [];
    for (let l = 0; l < this.layers.length; l++) {
      if (this.options.stop()) return 0;
      for (let e = 0; e < experts; e++) {
        this.layers[l].gains(e, scratch.add, scratch.drop, scratch.keep);
        const mask = this.layers[l].maskOf[e];
        for (let n = 0; n < nodes; n++) {
          if (((mask >>> n) & 1) === 0) adds.push({ gain: scratch.add[n], l, e, n });
          else if (popcount(mask) > 1) drops.push({ loss: scratch.drop[n], l, e, n });
        }
      }
    }
    adds.sort((x, y) => y.gain - x.gain || x.l - y.l || x.e - y.e);
    drops.sort((x, y) => x.loss - y.loss || x.l - y.l || x.e - y.e);
    let gained = 0;
    for (let n = 0; n < nodes; n++) {
      const in_ = adds.filter((a) => a.n === n);
      const out = drops.filter((d) => d.n === n);
      const used = new Set<number>();
      for (let i = 0, j = 0; i < out.length && j < in_.length; ) {
        if (this.options.stop()) return gained;
        const d = out[i];
        const a = in_[j];
        if (a.gain <= d.loss) break;
        const keyD = d.l * experts + d.e;
        const keyA = a.l * experts + a.e;
        if (used.has(keyD) || popcount(this.layers[d.l].maskOf[d.e]) < 2) {
          i++;
          continue;
        }
        if (used.has(keyA) || keyA === keyD) {
          j++;
          continue;
        }
        const dropLayer = this.layers[d.l];
        const addLayer = this.layers[a.l];
        const before = dropLayer.objective() + (addLayer === dropLayer ? 0 : addLayer.objective());
        dropLayer.apply(d.e, dropLayer.maskOf[d.e] & ~(1 << n), -1, 0);
        addLayer.apply(a.e, addLayer.maskOf[a.e] | (1 << n), -1, 0);
        const after = dropLayer.objective() + (addLayer === dropLayer ? 0 : addLayer.objective());
        if (after < before - 1e-9) {
          gained += before - after;
          used.add(keyD);
          used.add(keyA);
          i++;
          j++;
        } else {
          dropLayer.apply(d.e, dropLayer.maskOf[d.e] | (1 << n), -1, 0);
          addLayer.apply(a.e, addLayer.maskOf[a.e] & ~(1 << n), -1, 0);
          // Which of the two spoilt it is not known: give up the addition, the drop may suit another.
          j++;
        }
      }
    }
    this.options.onImproved(this.objective());
    return gained;
  }

  /** Lets layers trade moves between nodes. Returns what it gained. */
  exchangeMoves(): number {
    const gained = exchangeMoves(this.layers, this.options.stop);
    this.options.onImproved(this.objective());
    return gained;
  }

  /** What each sequence would cost on each home node, (sequences, nodes), weighted. */
  private *homeCostsSteps(): Steps<Float64Array> {
    const { trace, nodes } = this;
    const cost = new Float64Array(trace.sequences.length * nodes);
    const weight = this.options.sequenceWeight;
    for (const layer of this.layers) {
      const perPattern = layer.homeCosts();
      const { patternOf } = layer.histogram;
      for (let t = 0; t < trace.tokens; t++) {
        const s = trace.sequenceOf[t];
        const w = weight === null ? 1 : weight[s];
        const from = patternOf[t] * nodes;
        for (let h = 0; h < nodes; h++) cost[s * nodes + h] += w * perPattern[from + h];
      }
      yield;
    }
    return cost;
  }

  /** Homes at least cost within the balance, whatever they were: where those there are were never chosen. */
  chooseHomes(): void {
    runThrough(this.chooseHomesSteps());
  }

  private *chooseHomesSteps(): Steps<void> {
    yield* this.setHomesSteps(this.cheapestHomes(yield* this.homeCostsSteps()));
  }

  private cheapestHomes(cost: Float64Array): Int32Array {
    const tokens = this.trace.sequences.map((s) => s.tokens);
    return assignHomes(cost, tokens, this.options.balance);
  }

  private *setHomesSteps(homeOf: Int32Array): Steps<void> {
    this.homeOf = homeOf;
    yield* this.spreadHomesSteps();
    for (const layer of this.layers) {
      layer.reprice();
      yield;
    }
  }

  /** Chooses homes anew at least cost within the balance; keeps the old ones if that is no better. Returns what it gained. */
  async reassignHomes(): Promise<number> {
    const cost = await runInTurns(this.homeCostsSteps(), this.options);
    if (cost === null) return 0;
    const before = this.objective();
    const held = this.homeOf;
    runThrough(this.setHomesSteps(this.cheapestHomes(cost)));
    const gained = before - this.objective();
    if (gained > 1e-9) {
      this.options.onImproved(this.objective());
      return gained;
    }
    runThrough(this.setHomesSteps(held));
    return 0;
  }

  /** What a plan is judged by whatever the price of peaks is now: visits and rows, and a price that no plan pays willingly for peaks above the limit. Lower is better. */
  merit(): number {
    const visits = this.layers.reduce((sum, layer) => sum + layer.visits, 0);
    return visits * (1 + (this.options.peakMeanMax === Infinity ? 0 : 2 * Math.max(0, this.peakMean() - this.options.peakMeanMax)));
  }

  /** Peak over mean rows of the nodes, mean over layers. */
  peakMean(): number {
    return this.layers.reduce((sum, layer) => sum + layer.peakMean(), 0) / this.layers.length;
  }

  /** Begins with the price of peaks at which the placement as it is would rest: what the limit is worth to it is not known beforehand. */
  startPeakPrice(): void {
    if (this.priceFixed) return;
    this.prices.peakPrice = Math.min(peakPriceMax, Math.max(peakPriceMin, restingPeakPrice(this.layers)));
  }

  private get priceFixed(): boolean {
    return this.options.peakMeanMax === Infinity || this.nodes === 1;
  }

  /** Moves the price of peaks towards the one at which the plan just keeps its limit. */
  tunePeakPrice(): void {
    const { peakMeanMax } = this.options;
    if (this.priceFixed) return;
    const excess = (this.peakMean() - 1) / Math.max(peakMeanMax - 1, 0.01);
    this.prices.peakPrice = Math.min(peakPriceMax, Math.max(peakPriceMin, this.prices.peakPrice * Math.min(1.6, Math.max(0.6, excess))));
  }

  /** True if peaks are at their limit, or their price can go no further towards it. */
  peaksSettled(): boolean {
    if (this.priceFixed) return true;
    const above = this.peakMean() - this.options.peakMeanMax;
    return Math.abs(above) <= peakMeanNear || this.prices.peakPrice === (above > 0 ? peakPriceMax : peakPriceMin);
  }

  /**
   * Where links are not alike: lets nodes of equal memory and speed trade places, sequences and experts together, until no exchange of two makes the visits between
   * them cheaper. Which node a cluster was found on is chance, and no single move gets it elsewhere.
   */
  tradePlaces(): void {
    const { nodes, prices } = this;
    const { linkPrice, share } = prices;
    if (linkPrice === null) return;
    const visits = new Float64Array(nodes * nodes);
    for (const layer of this.layers) layer.addVisits(visits);
    const { slots, memory = slots } = this.options;
    const alike = (a: number, b: number) => memory[a] === memory[b] && Math.abs(share[a] - share[b]) < 1e-12;
    const at = nearestPlaces(visits, linkPrice, nodes, alike);
    if (at.every((to, n) => to === n)) return;
    const before = this.result();
    const moved = (mask: number) => at.reduce((set, to, n) => set | (((mask >>> n) & 1) << to), 0);
    this.resume({ masks: before.masks.map((layer) => layer.map(moved)), homeOf: before.homeOf.map((n) => at[n]) });
    this.fitMemory();
    // The rule prefers low node numbers, so another numbering may serve otherwise.
    if (this.objective() >= before.objective) this.resume(before);
  }

  /** Alternates all steps until a round gains less than `share` of the objective at a price of peaks that holds their limit. */
  async converge(roundsMax: number, share: number): Promise<void> {
    for (let round = 0; round < roundsMax && !this.options.stop(); round++) {
      this.tunePeakPrice();
      const before = this.objective();
      this.tradePlaces();
      await this.reassignHomes();
      await this.improveLayers(3, share);
      this.addReplicas();
      await this.options.pause();
      this.exchangeReplicas();
      for (let pass = 0; pass < 6 && this.exchangeMoves() > share * before; pass++) await this.options.pause();
      await this.options.pause();
      if (before - this.objective() <= share * before && this.peaksSettled()) break;
    }
  }
}
