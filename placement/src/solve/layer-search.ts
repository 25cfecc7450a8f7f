import { NodeCover, popcount } from '../cluster/node-set.ts';

/** What all layers of one search share. */
export interface TokenHomes {
  tokens: number;
  /** Home node of each token, (tokens). */
  homeOf: Uint8Array;
  /** How much each token counts, (tokens): 1, or more for a domain whose worst case matters. */
  weightOf: Float64Array;
}

export interface LayerPrices {
  /** Rows a node may serve in this layer before it is penalised, as a factor of its fair share. */
  peakMax: number;
  /** Price of one row above that, in remote node visits. */
  price: number;
  /** Fair share of each node, (nodes), summing to 1. */
  share: Float64Array;
  /** Price of one remote node visit: 1 in the fan-out model, 0 in the home-rank model, where only rows count. */
  visitPrice: number;
  /** Price of one row that its home does not serve: in the fan-out model, what the row costs besides the visit. */
  remoteRowPrice: number;
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
  private readonly shared: TokenHomes;
  private readonly prices: LayerPrices;
  /** Expert ids, (tokens, topK), and how many each token has. */
  private readonly ids: Uint16Array;
  private readonly countOf: Uint8Array;
  /** Tokens that chose each expert: postings[start[e]..start[e+1]). */
  private readonly start: Int32Array;
  private readonly postings: Int32Array;
  /** Nodes that hold each expert, as bits, (experts). Never zero. */
  readonly maskOf: Int32Array;
  /** Weighted rows each expert has served on each node, (experts, nodes). */
  readonly served: Float64Array;
  /** Weighted rows per node, (nodes). */
  readonly load: Float64Array;
  private readonly oldLoad: Float64Array;
  private readonly fairRows: Float64Array;
  /** Weighted remote visits of all tokens, with the price of remote rows. */
  visits = 0;
  /** Weighted remote nodes of all tokens: `visits` without prices. */
  remoteNodes = 0;
  private readonly cover = new NodeCover();
  private readonly seen: Int32Array;
  private stamp = 0;

  /** @param ids (tokens, topK), `none` where a token made fewer choices */
  constructor(shared: TokenHomes, ids: Uint16Array, topK: number, none: number, experts: number, nodes: number, prices: LayerPrices) {
    this.shared = shared;
    this.prices = prices;
    this.topK = topK;
    this.experts = experts;
    this.nodes = nodes;
    this.ids = new Uint16Array(ids.length);
    this.countOf = new Uint8Array(shared.tokens);
    this.start = new Int32Array(experts + 1);
    for (let t = 0; t < shared.tokens; t++) {
      let count = 0;
      for (let k = 0; k < topK; k++) {
        const e = ids[t * topK + k];
        if (e === none) continue;
        this.ids[t * topK + count++] = e;
        this.start[e + 1]++;
      }
      this.countOf[t] = count;
    }
    for (let e = 0; e < experts; e++) this.start[e + 1] += this.start[e];
    this.postings = new Int32Array(this.start[experts]);
    const at = this.start.slice();
    for (let t = 0; t < shared.tokens; t++) for (let k = 0; k < this.countOf[t]; k++) this.postings[at[this.ids[t * topK + k]]++] = t;
    this.maskOf = new Int32Array(experts);
    this.served = new Float64Array(experts * nodes);
    this.load = new Float64Array(nodes);
    this.oldLoad = new Float64Array(nodes);
    this.fairRows = new Float64Array(nodes);
    this.seen = new Int32Array(shared.tokens);
  }

  /** Sets all holders and prices every token anew (also after homes or weights changed). */
  reset(masks: ArrayLike<number>): void {
    this.maskOf.set(masks);
    this.reprice();
  }

  reprice(): void {
    this.served.fill(0);
    this.load.fill(0);
    this.visits = 0;
    this.remoteNodes = 0;
    for (let t = 0; t < this.shared.tokens; t++) this.visits += this.serve(t, 1, true);
    const total = this.load.reduce((a, b) => a + b, 0);
    for (let n = 0; n < this.nodes; n++) this.fairRows[n] = total * this.prices.share[n];
  }

  /** Price of rows above the limit, in visits. */
  penalty(): number {
    let over = 0;
    for (let n = 0; n < this.nodes; n++) over += Math.max(0, this.load[n] - this.prices.peakMax * this.fairRows[n]);
    return over * this.prices.price;
  }

  objective(): number {
    return this.visits + this.penalty();
  }

  /**
   * Adds (sign 1) or takes back (sign -1) what token t is served by the current holders; returns what its remote visits and rows cost. Trials leave `served` alone
   * (`counted` false): only what they are judged by is kept up to date.
   */
  private serve(t: number, sign: number, counted: boolean): number {
    const { maskOf, cover, nodes } = this;
    const base = t * this.topK;
    const count = this.countOf[t];
    const home = this.shared.homeOf[t];
    const homeBit = 1 << home;
    const weight = sign * this.shared.weightOf[t];
    let uncovered = 0;
    for (let k = 0; k < count; k++) {
      const e = this.ids[base + k];
      const mask = maskOf[e];
      if ((mask & homeBit) === 0) cover.masks[uncovered++] = mask;
      else {
        if (counted) this.served[e * nodes + home] += weight;
        this.load[home] += weight;
      }
    }
    if (uncovered === 0) return 0;
    const chosen = cover.solveFirst(uncovered);
    for (let k = 0; k < count; k++) {
      const e = this.ids[base + k];
      const mask = maskOf[e];
      if ((mask & homeBit) !== 0) continue;
      const holding = mask & chosen;
      const node = 31 - Math.clz32(holding & -holding);
      if (counted) this.served[e * nodes + node] += weight;
      this.load[node] += weight;
    }
    const nodesVisited = popcount(chosen);
    this.remoteNodes += weight * nodesVisited;
    return weight * (this.prices.visitPrice * nodesVisited + this.prices.remoteRowPrice * uncovered);
  }

  /** Changes the holders of one or two experts (`f` < 0 for one) if that lowers the objective by more than `gainMin`; returns the gain, or 0 and changes nothing. */
  tryChange(e: number, maskE: number, f: number, maskF: number, gainMin = improvementMin): number {
    const before = this.objective();
    const oldE = this.maskOf[e];
    const oldF = f < 0 ? 0 : this.maskOf[f];
    const oldVisits = this.visits;
    const oldRemoteNodes = this.remoteNodes;
    this.oldLoad.set(this.load);
    this.serveTokensOf(e, f, -1, false);
    this.hold(e, maskE, f, maskF);
    this.serveTokensOf(e, f, 1, false);
    const gain = before - this.objective();
    this.hold(e, oldE, f, oldF);
    this.visits = oldVisits;
    this.remoteNodes = oldRemoteNodes;
    this.load.set(this.oldLoad);
    if (gain <= gainMin) return 0;
    this.apply(e, maskE, f, maskF);
    return gain;
  }

  /** Sets the holders of one or two experts and re-serves only their tokens. */
  apply(e: number, maskE: number, f: number, maskF: number): void {
    this.serveTokensOf(e, f, -1, true);
    this.hold(e, maskE, f, maskF);
    this.serveTokensOf(e, f, 1, true);
  }

  private hold(e: number, maskE: number, f: number, maskF: number): void {
    this.maskOf[e] = maskE;
    if (f >= 0) this.maskOf[f] = maskF;
  }

  private serveTokensOf(e: number, f: number, sign: number, counted: boolean): void {
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
   * For expert e, all else fixed: what each single change of its holders is worth in visits. The price of a token is (price without e) + 1 unless e is held on a
   * node that the token visits anyway, so one pass over e's tokens gives the exact gain of every addition, removal and move.
   *
   * @param add    (nodes): visits saved by one more replica on the node
   * @param drop   (nodes): visits added by removing the replica on the node (where another remains)
   * @param keep   (nodes, nodes): of `drop[a]`, the part that a replica on b would save again; a move a to b gains add[b] - drop[a] + keep[a][b]
   */
  gains(e: number, add: Float64Array, drop: Float64Array, keep: Float64Array): void {
    const { nodes, cover, maskOf } = this;
    const { homeOf, weightOf } = this.shared;
    const { remoteRowPrice, visitPrice } = this.prices;
    add.fill(0, 0, nodes);
    drop.fill(0, 0, nodes);
    keep.fill(0, 0, nodes * nodes);
    const own = maskOf[e];
    for (let i = this.start[e]; i < this.start[e + 1]; i++) {
      const t = this.postings[i];
      const homeBit = 1 << homeOf[t];
      const base = t * this.topK;
      let uncovered = 0;
      for (let k = 0; k < this.countOf[t]; k++) {
        const other = this.ids[base + k];
        if (other !== e && (maskOf[other] & homeBit) === 0) cover.masks[uncovered++] = maskOf[other];
      }
      let free = homeBit;
      if (uncovered > 0) {
        cover.solveUnion(uncovered);
        free |= cover.union;
      }
      const hit = own & free;
      const weight = weightOf[t];
      const visits = visitPrice * weight;
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

  /** One pass of swaps and, where a node has room, moves: candidates by their single gains, each verified exactly. Returns what it gained. */
  improve(hasRoom: (node: number) => boolean, onMove: (from: number, to: number) => void, candidatesMax: number): number {
    const { experts, nodes, maskOf } = this;
    const add = new Float64Array(nodes);
    const drop = new Float64Array(nodes);
    const keep = new Float64Array(nodes * nodes);
    // moveGain[(e, from, to)] would be large for many nodes: keep per (replica, to).
    const replicaExpert: number[] = [];
    const replicaNode: number[] = [];
    const rows: Float64Array[] = [];
    for (let e = 0; e < experts; e++) {
      this.gains(e, add, drop, keep);
      for (let bits = maskOf[e]; bits !== 0; bits &= bits - 1) {
        const a = 31 - Math.clz32(bits & -bits);
        const row = new Float64Array(nodes);
        for (let b = 0; b < nodes; b++) row[b] = (maskOf[e] & (1 << b)) !== 0 ? -Infinity : add[b] - drop[a] + keep[a * nodes + b];
        replicaExpert.push(e);
        replicaNode.push(a);
        rows.push(row);
      }
    }
    const found: { score: number; i: number; j: number; to: number }[] = [];
    for (let i = 0; i < rows.length; i++) {
      const a = replicaNode[i];
      const servedI = this.served[replicaExpert[i] * nodes + a];
      for (let b = 0; b < nodes; b++)
        if (rows[i][b] > -Infinity && hasRoom(b)) {
          const score = rows[i][b] + this.loadGain(a, b, servedI, 0);
          if (score > 0) found.push({ score, i, j: -1, to: b });
        }
      for (let j = i + 1; j < rows.length; j++) {
        const b = replicaNode[j];
        if (a === b || replicaExpert[i] === replicaExpert[j]) continue;
        const visitsGain = rows[i][b] + rows[j][a];
        if (visitsGain === -Infinity) continue;
        const score = visitsGain + this.loadGain(a, b, servedI, this.served[replicaExpert[j] * nodes + b]);
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
      const e = replicaExpert[i];
      const f = j < 0 ? -1 : replicaExpert[j];
      if (touched[e] || (f >= 0 && touched[f])) continue;
      const from = replicaNode[i];
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
    for (let e = 0; e < experts; e++) {
      this.gains(e, add, drop, keep);
      for (let from = 0; from < nodes; from++) {
        if (((maskOf[e] >>> from) & 1) === 0) continue;
        for (let to = 0; to < nodes; to++) {
          if ((maskOf[e] >>> to) & 1) continue;
          const gain = add[to] - drop[from] + keep[from * nodes + to] + this.loadGain(from, to, this.served[e * nodes + from], 0);
          if (gain > least) found.push({ e, from, to, gain });
        }
      }
    }
    return found;
  }

  /** Saved penalty if `fromA` rows went from node a to b and `fromB` rows from b to a. */
  private loadGain(a: number, b: number, fromA: number, fromB: number): number {
    return this.prices.price * (this.over(a, 0) + this.over(b, 0) - this.over(a, fromB - fromA) - this.over(b, fromA - fromB));
  }

  private over(n: number, change: number): number {
    return Math.max(0, this.load[n] + change - this.prices.peakMax * this.fairRows[n]);
  }

  /** What each of the sample's tokens would cost if its home were each node: adds to `cost`, (tokens, nodes). */
  addHomeCosts(cost: Float32Array): void {
    const { nodes, cover, maskOf } = this;
    for (let t = 0; t < this.shared.tokens; t++) {
      const base = t * this.topK;
      for (let h = 0; h < nodes; h++) {
        const homeBit = 1 << h;
        let uncovered = 0;
        for (let k = 0; k < this.countOf[t]; k++) {
          const mask = maskOf[this.ids[base + k]];
          if ((mask & homeBit) === 0) cover.masks[uncovered++] = mask;
        }
        if (uncovered > 0)
          cost[t * nodes + h] += this.prices.visitPrice * popcount(cover.solveFirst(uncovered)) + this.prices.remoteRowPrice * uncovered;
      }
    }
  }
}
