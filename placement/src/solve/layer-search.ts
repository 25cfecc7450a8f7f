import { HomeCovers, NodeCover, popcount, visitsPrice } from '../cluster/node-set.ts';
import type { PatternEntries, PatternHistogram } from '../trace/pattern-histogram.ts';
import { FewNodeTrials, fewNodesMax } from './few-node-trials.ts';
import { NodeLoads } from './node-loads.ts';

/** What all layers of one search share. */
export interface LayerPrices {
  /** Price of one row that the fullest node of a layer serves above its fair share, in remote node visits. The search moves it until the peaks are as they should be. */
  peakPrice: number;
  /** Fair share of each node, (nodes), summing to 1. */
  share: Float64Array;
  /** Of visits from each home to each node, (nodes, nodes); null: all 1. */
  linkPrice: Float64Array | null;
  /** Price of one remote node visit: 1 in the fan-out model, 0 in the home-rank model, where only rows count. */
  visitPrice: number;
  /** Price of one row that its home does not serve: in the fan-out model, what the row costs besides the visit. */
  remoteRowPrice: number;
}

/** The replicas of a layer, and what each would gain by moving alone. */
export interface ReplicaMoves {
  count: number;
  /** (replicas) */
  expertOf: Int32Array;
  nodeOf: Int32Array;
  /** In visits and rows, peaks aside, (replicas, nodes). */
  gain: Float64Array;
}

const improvementMin = 1e-9;

/**
 * Node-level placement of one MoE layer's experts, with the exact price of every token under the router's rule: remote nodes visited, plus a price on rows above
 * each node's limit. All changes keep every expert somewhere; capacity is the caller's business.
 */
export class LayerSearch {
  readonly experts: number;
  readonly nodes: number;
  private readonly topK: number;
  private readonly prices: LayerPrices;
  readonly histogram: PatternHistogram;
  private entries: PatternEntries = { count: 0, patternOf: new Int32Array(0), homeOf: new Uint8Array(0), weightOf: new Float64Array(0) };
  /** Entries that chose each expert: postings[start[e]..start[e+1]). */
  private readonly start: Int32Array;
  private postings: Int32Array = new Int32Array(0);
  /** Nodes that hold each expert, as bits, (experts). Never zero. */
  readonly maskOf: Int32Array;
  /** Weighted rows each expert has served on each node, (experts, nodes). */
  readonly served: Float64Array;
  readonly loads: NodeLoads;
  private readonly oldRows: Float64Array;
  /** Of all rows; no change of holders changes it. */
  totalRows = 0;
  /** Weighted remote visits of all tokens, with the price of remote rows. */
  visits = 0;
  /** Weighted remote nodes of all tokens: `visits` without prices. */
  remoteNodes = 0;
  private readonly cover = new NodeCover();
  /** Answers trials where nodes are few and links alike; else entries are served again. */
  private readonly few: FewNodeTrials | null;
  /** As `demandOf`, once it was asked for since the entries changed. */
  private readonly demand: Float64Array;
  private demandKnown = false;
  private seen: Int32Array = new Int32Array(0);
  /** Remote nodes of each entry as last counted, (entries). */
  private chosenOf: Int32Array = new Int32Array(0);
  private stamp = 0;

  constructor(histogram: PatternHistogram, topK: number, experts: number, nodes: number, prices: LayerPrices) {
    this.histogram = histogram;
    this.prices = prices;
    this.topK = topK;
    this.experts = experts;
    this.nodes = nodes;
    this.start = new Int32Array(experts + 1);
    this.maskOf = new Int32Array(experts);
    this.served = new Float64Array(experts * nodes);
    this.loads = new NodeLoads(prices.share);
    this.oldRows = new Float64Array(nodes);
    this.few = nodes <= fewNodesMax && prices.linkPrice === null ? new FewNodeTrials(histogram, topK, experts, nodes) : null;
    this.demand = new Float64Array(experts * nodes);
  }

  /** What is looked at from now on: other homes or weights. Without `reset` or `reprice` nothing is right after it. */
  setEntries(entries: PatternEntries): void {
    const { ids, countOf } = this.histogram;
    const { topK, start } = this;
    this.entries = entries;
    start.fill(0);
    for (let i = 0; i < entries.count; i++) {
      const p = entries.patternOf[i];
      for (let k = 0; k < countOf[p]; k++) start[ids[p * topK + k] + 1]++;
    }
    for (let e = 0; e < this.experts; e++) start[e + 1] += start[e];
    this.postings = new Int32Array(start[this.experts]);
    const at = start.slice();
    for (let i = 0; i < entries.count; i++) {
      const p = entries.patternOf[i];
      for (let k = 0; k < countOf[p]; k++) this.postings[at[ids[p * topK + k]]++] = i;
    }
    this.seen = new Int32Array(entries.count);
    this.chosenOf = new Int32Array(entries.count);
    this.stamp = 0;
    this.few?.setEntries(entries);
    this.demandKnown = false;
  }

  /** Weighted rows that each expert has from each home, (experts, nodes). Counted when it is first asked for: most searches over all tokens never do. */
  get demandOf(): Float64Array {
    if (this.demandKnown) return this.demand;
    const { demand, entries, nodes, topK } = this;
    const { ids, countOf } = this.histogram;
    demand.fill(0);
    for (let i = 0; i < entries.count; i++) {
      const p = entries.patternOf[i];
      for (let k = 0; k < countOf[p]; k++) demand[ids[p * topK + k] * nodes + entries.homeOf[i]] += entries.weightOf[i];
    }
    this.demandKnown = true;
    return demand;
  }

  get choiceCount(): number {
    return this.entries.count;
  }

  /** What is looked at: the experts that tokens of one home chose together, and how much they count. */
  choices(): { experts: number[]; home: number; weight: number }[] {
    const { ids, countOf } = this.histogram;
    const { patternOf, homeOf, weightOf, count } = this.entries;
    return Array.from({ length: count }, (_, i) => {
      const base = patternOf[i] * this.topK;
      return { experts: Array.from(ids.subarray(base, base + countOf[patternOf[i]])), home: homeOf[i], weight: weightOf[i] };
    });
  }

  /** Adds the weighted visits from each home to each node, (nodes, nodes). */
  addVisits(into: Float64Array): void {
    const { nodes, maskOf } = this;
    const { ids, countOf } = this.histogram;
    for (let i = 0; i < this.entries.count; i++) {
      const home = this.entries.homeOf[i];
      const pattern = this.entries.patternOf[i];
      let away = false;
      for (let k = 0; k < countOf[pattern] && !away; k++) away = ((maskOf[ids[pattern * this.topK + k]] >>> home) & 1) === 0;
      if (!away) continue;
      for (let bits = this.chosenOf[i]; bits !== 0; bits &= bits - 1)
        into[home * nodes + 31 - Math.clz32(bits & -bits)] += this.entries.weightOf[i];
    }
  }

  /** Sets all holders and prices every token anew (also after homes or weights changed). */
  reset(masks: ArrayLike<number>): void {
    this.maskOf.set(masks);
    this.reprice();
  }

  reprice(): void {
    this.served.fill(0);
    this.loads.rows.fill(0);
    this.visits = 0;
    this.remoteNodes = 0;
    for (let i = 0; i < this.entries.count; i++) this.visits += this.serve(i, 1, true);
    this.totalRows = this.loads.rows.reduce((a, b) => a + b, 0);
  }

  /** Weighted tokens that are looked at. */
  tokens(): number {
    return this.entries.weightOf.reduce((a, b) => a + b, 0);
  }

  /** Rows of the fullest node over its fair share: 1 is even. */
  peakMean(): number {
    return this.totalRows === 0 ? 1 : this.loads.peak() / this.totalRows;
  }

  /** Price of the fullest node's rows above its fair share, in visits. */
  penalty(): number {
    return (this.prices.peakPrice * this.totalRows * (this.peakMean() - 1)) / this.nodes;
  }

  objective(): number {
    return this.visits + this.penalty();
  }

  /**
   * Adds (sign 1) or takes back (sign -1) what entry i is served by the current holders; returns what its remote visits and rows cost. Trials leave `served` alone
   * (`counted` false): only what they are judged by is kept up to date.
   */
  private serve(i: number, sign: number, counted: boolean): number {
    const { maskOf, cover, nodes } = this;
    const { rows } = this.loads;
    const { ids, countOf } = this.histogram;
    const pattern = this.entries.patternOf[i];
    const base = pattern * this.topK;
    const count = countOf[pattern];
    const home = this.entries.homeOf[i];
    const homeBit = 1 << home;
    const weight = sign * this.entries.weightOf[i];
    let uncovered = 0;
    for (let k = 0; k < count; k++) {
      const e = ids[base + k];
      const mask = maskOf[e];
      if ((mask & homeBit) === 0) cover.masks[uncovered++] = mask;
      else {
        if (counted) this.served[e * nodes + home] += weight;
        rows[home] += weight;
      }
    }
    if (uncovered === 0) return 0;
    // What is taken back was chosen before, by holders that are still the same.
    const chosen = sign < 0 ? this.chosenOf[i] : cover.solveFirst(uncovered);
    if (counted) this.chosenOf[i] = chosen;
    for (let k = 0; k < count; k++) {
      const e = ids[base + k];
      const mask = maskOf[e];
      if ((mask & homeBit) !== 0) continue;
      const holding = mask & chosen;
      const node = 31 - Math.clz32(holding & -holding);
      if (counted) this.served[e * nodes + node] += weight;
      rows[node] += weight;
    }
    this.remoteNodes += weight * popcount(chosen);
    const { visitPrice, remoteRowPrice, linkPrice } = this.prices;
    return weight * (visitPrice * visitsPrice(chosen, home, nodes, linkPrice) + remoteRowPrice * uncovered);
  }

  /** Changes the holders of one or two experts (`f` < 0 for one) if that lowers the objective by more than `gainMin`; returns the gain, or 0 and changes nothing. */
  tryChange(e: number, maskE: number, f: number, maskF: number, gainMin = improvementMin): number {
    const gain = this.gainOf(e, maskE, f, maskF);
    if (gain <= gainMin) return 0;
    this.apply(e, maskE, f, maskF);
    return gain;
  }

  /** What a change of the holders of one or two experts would gain, exactly; changes nothing. */
  gainOf(e: number, maskE: number, f: number, maskF: number): number {
    if (this.few !== null) {
      const { visitPrice, remoteRowPrice } = this.prices;
      const visits = visitPrice * this.few.trial(this.maskOf, e, maskE, f, maskF);
      const rows = this.remoteRowsMore(e, maskE) + (f < 0 ? 0 : this.remoteRowsMore(f, maskF));
      const penalty = (this.prices.peakPrice * (this.loads.peak(this.few.load) - this.totalRows)) / this.nodes;
      return this.penalty() - penalty - visits - remoteRowPrice * rows;
    }
    const before = this.objective();
    const oldE = this.maskOf[e];
    const oldF = f < 0 ? 0 : this.maskOf[f];
    const oldVisits = this.visits;
    const oldRemoteNodes = this.remoteNodes;
    this.oldRows.set(this.loads.rows);
    this.serveEntriesOf(e, f, -1, false);
    this.hold(e, maskE, f, maskF);
    this.serveEntriesOf(e, f, 1, false);
    const gain = before - this.objective();
    this.hold(e, oldE, f, oldF);
    this.visits = oldVisits;
    this.remoteNodes = oldRemoteNodes;
    this.loads.rows.set(this.oldRows);
    return gain;
  }

  /** Rows of e that its homes would no longer serve with other holders, weighted; negative where more homes would. */
  private remoteRowsMore(e: number, mask: number): number {
    const { demandOf, nodes } = this;
    let rows = 0;
    for (let bits = this.maskOf[e] ^ mask; bits !== 0; bits &= bits - 1) {
      const n = 31 - Math.clz32(bits & -bits);
      rows += (mask >>> n) & 1 ? -demandOf[e * nodes + n] : demandOf[e * nodes + n];
    }
    return rows;
  }

  /**
   * About the most that a change of e's holders gains: a visit for each row that a new holder may meet, and its own rows off the fullest node. Costs no look at tokens.
   * Where links or nodes are not alike, or another cover takes rows of other experts along, more may be gained.
   */
  gainCeiling(e: number, mask: number): number {
    const { visitPrice, remoteRowPrice, peakPrice } = this.prices;
    const { demandOf } = this;
    const added = (mask & ~this.maskOf[e]) !== 0;
    let ceiling = -remoteRowPrice * this.remoteRowsMore(e, mask);
    for (let n = 0; n < this.nodes; n++) {
      const rows = demandOf[e * this.nodes + n];
      ceiling += peakPrice * rows;
      if (added && ((this.maskOf[e] >>> n) & 1) === 0) ceiling += visitPrice * rows;
    }
    return ceiling;
  }

  /** Sets the holders of one or two experts and re-serves only their entries. */
  apply(e: number, maskE: number, f: number, maskF: number): void {
    this.serveEntriesOf(e, f, -1, true);
    this.hold(e, maskE, f, maskF);
    this.serveEntriesOf(e, f, 1, true);
  }

  private hold(e: number, maskE: number, f: number, maskF: number): void {
    this.maskOf[e] = maskE;
    if (f >= 0) this.maskOf[f] = maskF;
  }

  private serveEntriesOf(e: number, f: number, sign: number, counted: boolean): void {
    const stamp = ++this.stamp;
    const { seen, postings, start } = this;
    for (let i = start[e]; i < start[e + 1]; i++) {
      seen[postings[i]] = stamp;
      this.visits += this.serve(postings[i], sign, counted);
    }
    if (f < 0) return;
    for (let i = start[f]; i < start[f + 1]; i++) if (seen[postings[i]] !== stamp) this.visits += this.serve(postings[i], sign, counted);
  }

  /**
   * For expert e, all else fixed: what each single change of its holders is worth in visits. The price of an entry is (price without e) + 1 unless e is held on a
   * node that the entry visits anyway, so one pass over e's entries gives the exact gain of every addition, removal and move.
   *
   * @param add    (nodes): visits saved by one more replica on the node
   * @param drop   (nodes): visits added by removing the replica on the node (where another remains)
   * @param keep   (nodes, nodes): of `drop[a]`, the part that a replica on b would save again; a move a to b gains add[b] - drop[a] + keep[a][b]
   */
  gains(e: number, add: Float64Array, drop: Float64Array, keep: Float64Array): void {
    const { nodes, cover, maskOf } = this;
    const { ids, countOf } = this.histogram;
    const { patternOf, homeOf, weightOf } = this.entries;
    const { remoteRowPrice, visitPrice, linkPrice } = this.prices;
    add.fill(0, 0, nodes);
    drop.fill(0, 0, nodes);
    keep.fill(0, 0, nodes * nodes);
    const own = maskOf[e];
    for (let i = this.start[e]; i < this.start[e + 1]; i++) {
      const t = this.postings[i];
      const homeBit = 1 << homeOf[t];
      const base = patternOf[t] * this.topK;
      let uncovered = 0;
      for (let k = 0; k < countOf[patternOf[t]]; k++) {
        const other = ids[base + k];
        if (other !== e && (maskOf[other] & homeBit) === 0) cover.masks[uncovered++] = maskOf[other];
      }
      let free = homeBit;
      if (uncovered > 0) {
        cover.solveUnion(uncovered);
        free |= cover.union;
      }
      const hit = own & free;
      const weight = weightOf[t];
      // Exact where links are alike; else the visit that a change saves or costs is taken to be the one to e's first holder away from home.
      const away = own & ~homeBit;
      const link = linkPrice === null || away === 0 ? 1 : linkPrice[homeOf[t] * nodes + 31 - Math.clz32(away & -away)];
      const visits = visitPrice * weight * link;
      if (remoteRowPrice > 0) {
        if ((own & homeBit) === 0) add[homeOf[t]] += remoteRowPrice * weight;
        else drop[homeOf[t]] += remoteRowPrice * weight;
      }
      if (hit === 0) {
        for (let bits = free; bits !== 0; bits &= bits - 1) add[31 - Math.clz32(bits & -bits)] += visits;
      } else if ((hit & (hit - 1)) === 0) {
        const a = 31 - Math.clz32(hit);
        drop[a] += visits;
        for (let bits = free; bits !== 0; bits &= bits - 1) keep[a * nodes + (31 - Math.clz32(bits & -bits))] += visits;
      }
    }
  }

  replicaCount(): number {
    return this.maskOf.reduce((sum, mask) => sum + popcount(mask), 0);
  }

  /** Every replica, with the exact gain in visits and rows of moving it alone to each node; -Infinity where the expert is held already. */
  replicaMoves(): ReplicaMoves {
    const { experts, nodes, maskOf } = this;
    const add = new Float64Array(nodes);
    const drop = new Float64Array(nodes);
    const keep = new Float64Array(nodes * nodes);
    const count = this.replicaCount();
    const moves = { count, expertOf: new Int32Array(count), nodeOf: new Int32Array(count), gain: new Float64Array(count * nodes) };
    let i = 0;
    for (let e = 0; e < experts; e++) {
      this.gains(e, add, drop, keep);
      for (let bits = maskOf[e]; bits !== 0; bits &= bits - 1) {
        const a = 31 - Math.clz32(bits & -bits);
        for (let b = 0; b < nodes; b++)
          moves.gain[i * nodes + b] = (maskOf[e] & (1 << b)) !== 0 ? -Infinity : add[b] - drop[a] + keep[a * nodes + b];
        moves.expertOf[i] = e;
        moves.nodeOf[i++] = a;
      }
    }
    return moves;
  }

  /** One pass of swaps and, where a node has room, moves: candidates by their single gains, each verified exactly. Returns what it gained. */
  improve(hasRoom: (node: number) => boolean, onMove: (from: number, to: number) => void, candidatesMax: number): number {
    const { experts, nodes, maskOf, served } = this;
    const { count, expertOf, nodeOf, gain: gainOf } = this.replicaMoves();
    const found: { score: number; i: number; j: number; to: number }[] = [];
    const fullest = this.loads.rank();
    // Peaks fall only where the fullest node takes part, and no further than to the third: most pairs are out by their visits.
    const peakGainMax = this.peakGain(this.loads.exchangedMax());
    const servedOf = Float64Array.from(expertOf, (e, i) => served[e * nodes + nodeOf[i]]);
    for (let i = 0; i < count; i++) {
      const a = nodeOf[i];
      for (let b = 0; b < nodes; b++)
        if (gainOf[i * nodes + b] > -Infinity && hasRoom(b)) {
          const score = gainOf[i * nodes + b] + this.peakGain(this.loads.exchanged(a, b, servedOf[i], 0));
          if (score > 0) found.push({ score, i, j: -1, to: b });
        }
      for (let j = i + 1; j < count; j++) {
        const b = nodeOf[j];
        const gain = gainOf[i * nodes + b] + gainOf[j * nodes + a];
        if (gain <= 0 && (gain + peakGainMax <= 0 || (a !== fullest && b !== fullest))) continue;
        if (a === b || expertOf[i] === expertOf[j]) continue;
        const score = gain + this.peakGain(this.loads.exchanged(a, b, servedOf[i], servedOf[j]));
        if (score > 0) found.push({ score, i, j, to: b });
      }
    }
    found.sort((x, y) => y.score - x.score || x.i - y.i || x.j - y.j || x.to - y.to);
    const touched = new Uint8Array(experts);
    let gained = 0;
    let tried = 0;
    let failed = 0;
    for (const { i, j, to } of found) {
      // Candidates come best first: after many failures in a row the rest is noise.
      if (tried >= candidatesMax || failed > candidatesMax / 8) break;
      const e = expertOf[i];
      const f = j < 0 ? -1 : expertOf[j];
      if (touched[e] || (f >= 0 && touched[f])) continue;
      const from = nodeOf[i];
      if (f < 0 && !hasRoom(to)) continue;
      tried++;
      const gain = this.tryChange(e, (maskOf[e] & ~(1 << from)) | (1 << to), f, f < 0 ? 0 : (maskOf[f] & ~(1 << to)) | (1 << from));
      failed = gain === 0 ? failed + 1 : 0;
      if (gain === 0) continue;
      gained += gain;
      touched[e] = 1;
      if (f >= 0) touched[f] = 1;
      else onMove(from, to);
    }
    return gained;
  }

  /** Every move of one replica to another node with its estimated gain (visits exact, load as if all its rows went along), best first, gains above `least` only. */
  moves(least: number): { e: number; from: number; to: number; gain: number }[] {
    const { experts, nodes, maskOf } = this;
    const add = new Float64Array(nodes);
    const drop = new Float64Array(nodes);
    const keep = new Float64Array(nodes * nodes);
    const found: { e: number; from: number; to: number; gain: number }[] = [];
    this.loads.rank();
    for (let e = 0; e < experts; e++) {
      this.gains(e, add, drop, keep);
      for (let from = 0; from < nodes; from++) {
        if (((maskOf[e] >>> from) & 1) === 0) continue;
        for (let to = 0; to < nodes; to++) {
          if ((maskOf[e] >>> to) & 1) continue;
          const gain =
            add[to] -
            drop[from] +
            keep[from * nodes + to] +
            this.peakGain(this.loads.exchanged(from, to, this.served[e * nodes + from], 0));
          if (gain > least) found.push({ e, from, to, gain });
        }
      }
    }
    return found;
  }

  /** What it is worth, in visits, that the largest pressure falls. */
  private peakGain(fall: number): number {
    return (this.prices.peakPrice * fall) / this.nodes;
  }

  /** What a token of each pattern would cost if its home were each node, (patterns, nodes). */
  homeCosts(): Float32Array {
    const { nodes, maskOf } = this;
    const { ids, countOf, patterns } = this.histogram;
    const { visitPrice, remoteRowPrice, linkPrice } = this.prices;
    const cost = new Float32Array(patterns * nodes);
    const covers = new HomeCovers(nodes);
    for (let p = 0; p < patterns; p++) {
      for (let k = 0; k < countOf[p]; k++) covers.masks[k] = maskOf[ids[p * this.topK + k]];
      covers.solve(countOf[p]);
      for (let h = 0; h < nodes; h++)
        cost[p * nodes + h] = visitPrice * visitsPrice(covers.visited[h], h, nodes, linkPrice) + remoteRowPrice * covers.rows[h];
    }
    return cost;
  }
}
