import type { MoeLayer } from '../model/contract.ts';
import { type ExpertRoutes, NOBODY } from './expert-routes.ts';

/** What one destination gets of a layer: its rows, and (row, expert, weight) pairs that index them. */
export class Lane {
  rows = 0;
  pairs = 0;
  /** Batch row of each of the lane's rows. (maxRows) */
  readonly row: Int32Array;
  /** (maxRows * topK) */
  readonly pairRow: Uint16Array;
  readonly pairExpert: Uint16Array;
  readonly pairWeight: Float32Array;

  constructor(maxRows: number, topK: number) {
    this.row = new Int32Array(maxRows);
    this.pairRow = new Uint16Array(maxRows * topK);
    this.pairExpert = new Uint16Array(maxRows * topK);
    this.pairWeight = new Float32Array(maxRows * topK);
  }

  clear(): void {
    this.rows = 0;
    this.pairs = 0;
  }

  /** Rows come in ascending order, so a row that is here already is the last one. */
  add(row: number, expert: number, weight: number): void {
    if (this.rows === 0 || this.row[this.rows - 1] !== row) this.row[this.rows++] = row;
    this.pairRow[this.pairs] = this.rows - 1;
    this.pairExpert[this.pairs] = expert;
    this.pairWeight[this.pairs++] = weight;
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

/** Which rows of a batch still count. */
export interface RowOwners {
  readonly rows: number;
  failed(row: number): boolean;
}

/**
 * Splits the routed rows of a layer by the worker that computes them. A row goes at most once to each worker, whatever the number of its experts there. All memory
 * is made once.
 */
export class RowPartition {
  readonly local: LocalPairs;
  /** [worker]; the home's own lane stays empty. */
  readonly lanes: Lane[];
  /** Workers whose lane has rows. */
  readonly remote: number[] = [];
  /** Distinct remote nodes over all rows of the last split. */
  remoteNodes = 0;
  private readonly routes: ExpertRoutes;
  private readonly topK: number;
  private readonly load: Int32Array;
  private readonly experts: Int32Array;
  private readonly chosen: Int32Array;
  private readonly nodeSeen: Int32Array;
  private stamp = 0;

  constructor(routes: ExpertRoutes, maxRows: number, topK: number) {
    this.routes = routes;
    this.topK = topK;
    this.local = new LocalPairs(maxRows, topK);
    this.lanes = Array.from({ length: routes.workers }, (_, worker) => new Lane(worker === routes.home ? 0 : maxRows, topK));
    this.load = new Int32Array(routes.workers);
    this.experts = new Int32Array(topK);
    this.chosen = new Int32Array(topK);
    this.nodeSeen = new Int32Array(Math.max(...routes.nodeOf) + 1);
  }

  /** @param onNobody told about each row with an expert that no reachable worker hosts; the row goes nowhere */
  split(index: number, layer: MoeLayer, owners: RowOwners, onNobody: (row: number, expert: number) => void): void {
    const { local, lanes, remote, routes, topK, load, experts, chosen } = this;
    const ids = layer.ids.i32;
    const weights = layer.weights.f32;
    const { home } = routes;
    for (const worker of remote) lanes[worker].clear();
    remote.length = 0;
    local.count = 0;
    this.remoteNodes = 0;
    load.fill(0);
    for (let row = 0; row < owners.rows; row++) {
      if (owners.failed(row)) continue;
      const at = row * topK;
      for (let k = 0; k < topK; k++) experts[k] = ids[at + k];
      routes.choose(index, experts, topK, load, chosen);
      const lost = chosen.indexOf(NOBODY);
      if (lost >= 0) {
        onNobody(row, experts[lost]);
        continue;
      }
      this.stamp++;
      for (let k = 0; k < topK; k++) {
        const worker = chosen[k];
        if (worker === home) {
          local.row[local.count] = row;
          local.expert[local.count] = experts[k];
          local.slot[local.count] = layer.slotOf[experts[k]];
          local.weight[local.count++] = weights[at + k];
          continue;
        }
        const lane = lanes[worker];
        if (lane.rows === 0) remote.push(worker);
        if (lane.rows === 0 || lane.row[lane.rows - 1] !== row) load[worker]++;
        lane.add(row, experts[k], weights[at + k]);
        this.visit(routes.nodeOf[worker]);
      }
    }
  }

  private visit(node: number): void {
    if (node === this.routes.nodeOf[this.routes.home] || this.nodeSeen[node] === this.stamp) return;
    this.nodeSeen[node] = this.stamp;
    this.remoteNodes++;
  }
}
