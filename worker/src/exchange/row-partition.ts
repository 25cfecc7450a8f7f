import type { SequenceTraffic } from '../engine/sequence-traffic.ts';
import type { MoeLayer } from '../model/contract.ts';
import type { Doubts } from './doubts.ts';
import { type ExpertRoutes, NOBODY } from './expert-routes.ts';

/** What one destination gets of a layer: its rows, and (row, expert, weight) pairs that index them. A destination is a worker of the home's node, or another node. */
export class Lane {
  readonly node: number;
  /** Null: any worker of the node, as its gateway. */
  readonly worker: number | null;
  rows = 0;
  pairs = 0;
  /** Batch row of each of the lane's rows. (maxRows) */
  readonly row: Int32Array;
  /** (maxRows * topK) */
  readonly pairRow: Uint16Array;
  readonly pairExpert: Uint16Array;
  readonly pairWeight: Float32Array;

  constructor(node: number, worker: number | null, maxRows: number, topK: number) {
    this.node = node;
    this.worker = worker;
    this.row = new Int32Array(maxRows);
    this.pairRow = new Uint16Array(maxRows * topK);
    this.pairExpert = new Uint16Array(maxRows * topK);
    this.pairWeight = new Float32Array(maxRows * topK);
  }

  /** Rows come in ascending order, so a row that is here already is the last one. */
  add(row: number, expert: number, weight: number): void {
    if (!this.ends(row)) this.row[this.rows++] = row;
    this.pairRow[this.pairs] = this.rows - 1;
    this.pairExpert[this.pairs] = expert;
    this.pairWeight[this.pairs++] = weight;
  }

  /** Whether the row is here, of those that came so far. */
  ends(row: number): boolean {
    return this.rows > 0 && this.row[this.rows - 1] === row;
  }
}

/** Pairs that this worker computes itself, as `native.expertsRun` wants them. */
export class LocalPairs {
  count = 0;
  /** (maxRows * topK) */
  readonly row: Int32Array;
  readonly slot: Int32Array;
  readonly expert: Int32Array;
  readonly weight: Float32Array;

  constructor(maxRows: number, topK: number) {
    this.row = new Int32Array(maxRows * topK);
    this.slot = new Int32Array(maxRows * topK);
    this.expert = new Int32Array(maxRows * topK);
    this.weight = new Float32Array(maxRows * topK);
  }
}

/** Which rows of a batch still count, and whose bill they are on. */
export interface RowOwners {
  readonly rows: number;
  failed(row: number): boolean;
  traffic(row: number): SequenceTraffic;
}

/**
 * Splits the routed rows of a layer by where they go: a row goes at most once to each other node, and inside the home's node at most once to each worker, whatever
 * the number of its experts there. All memory is made once.
 */
export class RowPartition {
  readonly local: LocalPairs;
  /** Destinations that have rows. */
  readonly remote: Lane[] = [];
  /** Distinct remote nodes over all rows of the last split. */
  remoteNodes = 0;
  private readonly routes: ExpertRoutes;
  private readonly topK: number;
  /** [worker] where rows for that worker go. */
  private readonly laneOf: Lane[];
  /** [worker] pairs that it gets of this split as far as the home decides. */
  private readonly pairs: Int32Array;
  private readonly experts: Int32Array;
  private readonly chosen: Int32Array;

  constructor(routes: ExpertRoutes, maxRows: number, topK: number) {
    this.routes = routes;
    this.topK = topK;
    this.local = new LocalPairs(maxRows, topK);
    const homeNode = routes.nodeOf[routes.home];
    const nodes = new Map<number, Lane>();
    this.laneOf = Array.from(routes.nodeOf, (node, worker) => {
      if (worker === routes.home) return new Lane(node, worker, 0, topK);
      if (node === homeNode) return new Lane(node, worker, maxRows, topK);
      const lane = nodes.get(node) ?? new Lane(node, null, maxRows, topK);
      nodes.set(node, lane);
      return lane;
    });
    this.pairs = new Int32Array(routes.workers);
    this.experts = new Int32Array(topK);
    this.chosen = new Int32Array(topK);
  }

  /** @param onNobody told about each row with an expert that no reachable worker hosts; the row goes nowhere */
  split(index: number, layer: MoeLayer, owners: RowOwners, onNobody: (row: number, expert: number) => void): void {
    const { local, routes, topK, pairs, experts, chosen } = this;
    const ids = layer.ids.i32;
    const weights = layer.weights.f32;
    const { home } = routes;
    const homeNode = routes.nodeOf[home];
    for (const lane of this.remote) {
      lane.rows = 0;
      lane.pairs = 0;
    }
    this.remote.length = 0;
    local.count = 0;
    this.remoteNodes = 0;
    pairs.fill(0);
    for (let row = 0; row < owners.rows; row++) {
      if (owners.failed(row)) continue;
      const at = row * topK;
      for (let k = 0; k < topK; k++) experts[k] = ids[at + k];
      routes.choose(index, experts, topK, pairs, chosen);
      const lost = chosen.indexOf(NOBODY);
      if (lost >= 0) {
        onNobody(row, experts[lost]);
        continue;
      }
      let nodes = 0;
      let atHome = 0;
      for (let k = 0; k < topK; k++) {
        const worker = chosen[k];
        if (routes.nodeOf[worker] === homeNode) atHome++;
        if (worker === home) {
          local.row[local.count] = row;
          local.expert[local.count] = experts[k];
          local.slot[local.count] = layer.slotOf[experts[k]];
          local.weight[local.count++] = weights[at + k];
          continue;
        }
        const lane = this.laneOf[worker];
        if (lane.rows === 0) this.remote.push(lane);
        if (lane.worker === null && !lane.ends(row)) nodes++;
        pairs[worker]++;
        lane.add(row, experts[k], weights[at + k]);
      }
      this.remoteNodes += nodes;
      const traffic = owners.traffic(row);
      traffic.rows++;
      traffic.remoteNodes += nodes;
      traffic.visits += topK;
      traffic.homeVisits += atHome;
    }
  }

  /** Whether the lane's rows leave the home's node. */
  crosses(lane: Lane): boolean {
    return lane.node !== this.routes.nodeOf[this.routes.home];
  }

  /**
   * The pairs of a lane once more, each worker's in a lane of its own, by who can be reached now and is least in doubt. A row with a pair that nobody is left for
   * is in none of the lanes.
   */
  again(lost: Lane, index: number, doubts: Doubts): { lanes: Lane[]; hopeless: number[] } {
    const lanes = new Map<number, Lane>();
    const hopeless: number[] = [];
    for (let p = 0, end = 0; p < lost.pairs; p = end) {
      // Pairs come in the order of their rows.
      while (end < lost.pairs && lost.pairRow[end] === lost.pairRow[p]) end++;
      const row = lost.row[lost.pairRow[p]];
      const experts = lost.pairExpert.subarray(p, end);
      const workers = Array.from(experts, (expert) => this.routes.leastLoaded(index, expert, doubts, this.pairs));
      if (workers.includes(NOBODY)) {
        hopeless.push(row);
        continue;
      }
      workers.forEach((worker, i) => {
        const lane = lanes.get(worker) ?? new Lane(this.routes.nodeOf[worker], worker, lost.rows, this.topK);
        lanes.set(worker, lane);
        lane.add(row, experts[i], lost.pairWeight[p + i]);
        this.pairs[worker]++;
      });
    }
    return { lanes: [...lanes.values()], hopeless };
  }

  /**
   * The worker that a lane's frame is sent to. A node's gateway is the worker there that hosts most of the frame's pairs, so that the fewest rows take another hop;
   * of equals, the lowest number.
   */
  destination(lane: Lane): number {
    if (lane.worker !== null) return lane.worker;
    const { nodeOf } = this.routes;
    let best = -1;
    for (let worker = 0; worker < nodeOf.length; worker++) {
      if (nodeOf[worker] === lane.node && this.pairs[worker] > 0 && (best < 0 || this.pairs[worker] > this.pairs[best])) best = worker;
    }
    return best;
  }
}
