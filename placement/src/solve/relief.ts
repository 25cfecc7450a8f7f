import type { Steps } from '../steps.ts';
import type { FanOutSearch } from './fan-out-search.ts';
import type { LayerSearch, ReplicaMoves } from './layer-search.ts';

/** A move of replica i to a node, or its exchange with replica j there. */
interface Step {
  /** Visits that it costs for each row over share that it takes off its layer's fullest node; negative where it saves visits. */
  visitsPerRow: number;
  i: number;
  /** -1: replica i moves alone. */
  j: number;
  from: number;
  to: number;
}

/** Told of every replica that moves alone, and asked for room before. */
export interface Room {
  has: (node: number) => boolean;
  onMove: (from: number, to: number) => void;
}

/**
 * Takes load from layers' fullest nodes until peak over mean, averaged over the layers, is within `limit` or nothing helps: of the steps of all layers always the one
 * that costs least for what it brings, so that layers where balance is dear stay as they are. A row less on the fullest node is worth at most `peakPrice` visits. A plan
 * that is within the limit is left alone. What moved stays, and costs are those at the start: another round looks at them anew.
 *
 * @returns true if it took any step
 */
function* relieve(layers: readonly LayerSearch[], limit: number, peakPrice: number, room: Room): Steps<boolean> {
  let excess = layers.reduce((sum, layer) => sum + layer.peakMean() - limit, 0);
  if (excess <= 0) return false;
  const reliefs: LayerRelief[] = [];
  for (const layer of layers) {
    reliefs.push(new LayerRelief(layer, peakPrice, room));
    yield;
  }
  let taken = false;
  while (excess > 0) {
    let best = reliefs[0];
    for (const relief of reliefs) if (relief.visitsPerPeakMean < best.visitsPerPeakMean) best = relief;
    if (best.visitsPerPeakMean === Infinity) break;
    excess -= best.take();
    taken = true;
    yield;
  }
  return taken;
}

/** Mean peak that a round must take off to count. */
const roundMin = 1e-6;

/** Rounds in a row that take nothing off: where two nodes of a layer are equally full, the first relieves but one of them. */
const idleRoundsMax = 3;

/** Rounds of relief while the mean peak falls; leaves the search with the lowest. */
export function* relieveInRounds(search: FanOutSearch, limit: number, peakPrice: number, room: Room): Steps<void> {
  let least = search.peakMean();
  let held: Int32Array[] | null = null;
  for (let idle = 0; search.peakMean() > limit && idle < idleRoundsMax; ) {
    const before = search.layers.map((layer) => layer.maskOf.slice());
    if (!(yield* relieve(search.layers, limit, peakPrice, room))) break;
    if (search.peakMean() < least - roundMin) {
      least = search.peakMean();
      held = null;
      idle = 0;
    } else {
      held ??= before;
      idle++;
    }
    if (search.options.stop()) break;
  }
  if (held !== null) search.load(held);
}

/** The price of peaks at which the placement as it is would rest: where the cheapest step off its fullest node begins to pay in half of the layers. */
export function restingPeakPrice(layers: readonly LayerSearch[]): number {
  const none = { has: () => false, onMove: () => {} };
  // So many layers tell as much as all.
  const stride = Math.ceil(layers.length / 16);
  const some = layers.filter((_, l) => l % stride === 0);
  const prices = some.map((layer) => new LayerRelief(layer, Infinity, none).payingPrice).sort((a, b) => a - b);
  return prices[prices.length >> 1];
}

/** The steps of one layer. Their costs are those at the start; experts that moved stay. */
class LayerRelief {
  private readonly layer: LayerSearch;
  private readonly room: Room;
  private readonly visitsPerRowMax: number;
  private readonly moves: ReplicaMoves;
  /** Replicas on each node, (nodes) of lists. */
  private readonly onNode: readonly (readonly number[])[];
  private readonly touched: Uint8Array;
  private readonly servedOf: Float64Array;
  /** Replicas of node b by what they save where they come to node a, most first, at a * nodes + b; those that were asked for. */
  private readonly comingBack: (readonly number[])[] = [];
  private next: Step | null = null;

  constructor(layer: LayerSearch, peakPrice: number, room: Room) {
    this.layer = layer;
    this.room = room;
    this.visitsPerRowMax = peakPrice / layer.nodes;
    this.moves = layer.replicaMoves();
    const replicas = Array.from(this.moves.nodeOf.keys());
    this.onNode = Array.from({ length: layer.nodes }, (_, n) => replicas.filter((i) => this.moves.nodeOf[i] === n));
    this.touched = new Uint8Array(layer.experts);
    this.servedOf = new Float64Array(this.moves.count);
    this.next = this.cheapest();
  }

  /** Of the next step: visits for each unit of the layer's peak over mean; Infinity: there is none. */
  get visitsPerPeakMean(): number {
    return this.next === null ? Infinity : this.next.visitsPerRow * this.layer.totalRows;
  }

  /** Of peaks, at which the next step begins to pay; Infinity: there is none. */
  get payingPrice(): number {
    return this.next === null ? Infinity : this.next.visitsPerRow * this.layer.nodes;
  }

  /** Takes the next step. Returns how much it takes off the layer's peak over mean. */
  take(): number {
    const { layer, moves, touched } = this;
    const before = layer.peakMean();
    const { i, j, from, to } = this.next!;
    // Another layer may have taken the room.
    if (j >= 0 || this.room.has(to)) {
      const { maskOf } = layer;
      const e = moves.expertOf[i];
      const f = j < 0 ? -1 : moves.expertOf[j];
      layer.apply(e, (maskOf[e] & ~(1 << from)) | (1 << to), f, f < 0 ? 0 : (maskOf[f] & ~(1 << to)) | (1 << from));
      touched[e] = 1;
      if (f >= 0) touched[f] = 1;
      else this.room.onMove(from, to);
    }
    this.next = this.cheapest();
    return before - layer.peakMean();
  }

  /** The next step. It rarely costs much more than the one before, and what costs more is soon passed over. */
  private cheapest(): Step | null {
    const guess = this.next === null ? Infinity : 1.5 * Math.max(0, this.next.visitsPerRow) + 0.02;
    const near = guess < this.visitsPerRowMax ? this.cheapestBelow(guess) : null;
    return near ?? this.cheapestBelow(this.visitsPerRowMax);
  }

  /** Of all moves from the fullest node and exchanges with it, those that cost less. */
  private cheapestBelow(visitsPerRowMax: number): Step | null {
    const { layer, moves, touched, servedOf, onNode } = this;
    const { nodes, loads } = layer;
    const { count, expertOf, nodeOf, gain } = moves;
    const a = loads.fullestNode();
    const now = loads.pressure(a);
    const perRow = loads.pressurePerRow(a);
    for (let i = 0; i < count; i++) servedOf[i] = touched[expertOf[i]] === 1 ? Infinity : layer.served[expertOf[i] * nodes + nodeOf[i]];
    /** The most that a replica saves which comes back from a node, or nobody; (nodes) */
    const backMost = new Float64Array(nodes);
    for (let j = 0; j < count; j++) backMost[nodeOf[j]] = Math.max(backMost[nodeOf[j]], gain[j * nodes + a]);
    let best: Step | null = null;
    let least = visitsPerRowMax;
    /** False where it costs too much even if all that leaves the node counts. */
    const mayPay = (visits: number, rows: number) => visits + Math.max(0, least) * rows * perRow > 0;
    const consider = (i: number, j: number, b: number, visits: number, change: number) => {
      // Only what leaves the node itself counts: which node is fullest next is seen next.
      const fall = now - Math.max(loads.pressure(a, -change), loads.pressure(b, change));
      if (fall <= 0 || visits + least * fall <= 0) return;
      least = -visits / fall;
      best = { visitsPerRow: least, i, j, from: a, to: b };
    };
    for (const i of onNode[a]) {
      const own = servedOf[i];
      if (own === Infinity) continue;
      for (let b = 0; b < nodes; b++) {
        const there = gain[i * nodes + b];
        if (b === a || there === -Infinity || !mayPay(there + backMost[b], own)) continue;
        if (this.room.has(b)) consider(i, -1, b, there, own);
        for (const j of this.mostFirst(a, b)) {
          const visits = there + gain[j * nodes + a];
          if (!mayPay(visits, own)) break;
          const change = own - servedOf[j];
          if (change > 0 && mayPay(visits, change)) consider(i, j, b, visits, change);
        }
      }
    }
    return best;
  }

  private mostFirst(a: number, b: number): readonly number[] {
    const { nodes } = this.layer;
    const { gain } = this.moves;
    this.comingBack[a * nodes + b] ??= this.onNode[b].toSorted((i, j) => gain[j * nodes + a] - gain[i * nodes + a] || i - j);
    return this.comingBack[a * nodes + b];
  }
}
