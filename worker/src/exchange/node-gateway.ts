import {
  type CombineFrame,
  type DispatchFrame,
  dispatchFrameBytes,
  type ErrorCode,
  encodeDispatchHeader,
  frameMemory,
  type Plan,
  SwitchyardError,
  sealFrame,
} from '@switchyard/proto';
import type { MoeLayer } from '../model/contract.ts';
import type { ExpertRoutes } from './expert-routes.ts';
import type { Cargo, Flights } from './flights.ts';
import { urgencyOf } from './urgency.ts';

/** Sums of some rows of a frame, as they came from whoever computed them. */
export interface PartialSums {
  /** Rows of the frame. */
  row: Int32Array;
  bytes: Uint8Array;
  offset: number;
  length: number;
}

/** Who waits for a node's answer. Exactly one of the two is called, once. */
export interface RelayEnd {
  /** @param answer made with this worker's own part, which came last; null: it is to be made of the relay's parts */
  complete(relay: Relay, answer: Uint8Array | null): void;
  failed(relay: Relay, code: ErrorCode, message: string): void;
}

/** A frame whose pairs several workers of this node compute. */
export class Relay {
  readonly frame: DispatchFrame;
  /** Indexes of the frame's pairs that this worker computes itself. */
  readonly own: Int32Array;
  /** Sums of the other workers, and of this one once it had to put them aside. */
  readonly partials: PartialSums[] = [];
  private readonly end: RelayEnd;
  /** Parts that are missing: one per other worker, and one for `own`. */
  private missing = 0;
  private over = false;

  constructor(frame: DispatchFrame, own: Int32Array, end: RelayEnd) {
    this.frame = frame;
    this.own = own;
    this.end = end;
    if (own.length > 0) this.missing++;
  }

  /** While its own part is missing: it is the last one. */
  get onlyOwnMissing(): boolean {
    return this.missing === 1;
  }

  /** It failed: its own part need not be computed. */
  get isOver(): boolean {
    return this.over;
  }

  expect(): void {
    this.missing++;
  }

  add(partial: PartialSums): void {
    this.partials.push(partial);
    if (--this.missing === 0) this.complete(null);
  }

  /** Nothing is missing but, if there is an answer, this worker's own part: it is in there with all others. */
  complete(answer: Uint8Array | null): void {
    if (this.over) return;
    this.over = true;
    this.end.complete(this, answer);
  }

  fail(code: ErrorCode, message: string): void {
    if (this.over) return;
    this.over = true;
    this.end.failed(this, code, message);
  }
}

export interface NodeGatewayOptions {
  plan: Plan;
  /** Index of this worker in the plan. */
  worker: number;
  routes: ExpertRoutes;
  flights: Flights;
  hidden: number;
  topK: number;
  maxRows: number;
  rowDeadlineMs: number;
  /** Resolves when every neighbour has been dialled once; null: there are none. */
  ready: Promise<void> | null;
}

/** Share of a row's deadline that a neighbour has: the gateway must have noticed that it stands still before the home takes the gateway for the one that does. */
const RELAY_DEADLINE = 0.6;

/**
 * The second level of the exchange: a row crosses to a node once, whatever the number of its experts there. Whichever worker receives a frame for its node sends on
 * the pairs that others host, each worker's rows in one frame over the node's own links, and the sums come back here to be added into one row.
 *
 * Among replicas inside the node it takes the least loaded, as far as it knows: counters may be stale, and change where a row is computed, never what is computed.
 */
export class NodeGateway {
  /**
   * Null once every neighbour has been dialled. A frame for the node waits for it: its home may have been told of this node before this worker was told of its
   * neighbours.
   */
  connecting: Promise<void> | null;
  private readonly options: NodeGatewayOptions;
  /** [pair] worker, and per worker the pairs and rows of the frame in hand. */
  private readonly chosen: Int32Array;
  private readonly pairs: Int32Array;
  private readonly rowSeen: Int32Array;
  private readonly placeOf: Uint16Array;

  constructor(options: NodeGatewayOptions) {
    this.options = options;
    const { plan, maxRows, topK, ready } = options;
    this.connecting =
      ready?.then(() => {
        this.connecting = null;
      }) ?? null;
    this.chosen = new Int32Array(maxRows * topK);
    this.pairs = new Int32Array(plan.workers.length);
    this.rowSeen = new Int32Array(maxRows);
    this.placeOf = new Uint16Array(maxRows);
  }

  /** Null when some reachable worker of this node hosts the expert, else why not. */
  refusal(layer: number, expert: number): SwitchyardError | null {
    const { routes } = this.options;
    return routes.inNode(layer, expert).length > 0 ? null : routes.unavailable(layer, expert);
  }

  /**
   * Sends on what others compute. Null: everything is computed here.
   * @param frame of a scope and with experts that this node serves
   * @param ownRows rows that wait here already
   */
  open(frame: DispatchFrame, layer: MoeLayer, ownRows: number, end: RelayEnd): Relay | null {
    const { worker: self } = this.options;
    if (frame.scope === 'worker') return null;
    this.choose(frame, layer, ownRows);
    const ownPairs = this.pairs[self];
    if (ownPairs === frame.pairs) return null;
    const own = new Int32Array(ownPairs);
    let count = 0;
    for (let p = 0; p < frame.pairs && count < ownPairs; p++) if (this.chosen[p] === self) own[count++] = p;
    const relay = new Relay(frame, own, end);
    // All parts are expected before the first is sent: one that is lost at once must not find the relay complete.
    this.pairs.forEach((pairs, worker) => {
      if (pairs > 0 && worker !== self) relay.expect();
    });
    // One that is lost at once has ended it: its home asks for all of its rows elsewhere.
    for (let worker = 0; worker < this.pairs.length && !relay.isOver; worker++) {
      if (this.pairs[worker] > 0 && worker !== self) this.sendOn(relay, worker, layer);
    }
    return relay;
  }

  private choose(frame: DispatchFrame, layer: MoeLayer, ownRows: number): void {
    const { routes, flights, worker: self } = this.options;
    this.pairs.fill(0);
    for (let p = 0; p < frame.pairs; p++) {
      const expert = frame.pairExpert[p];
      let best = layer.slotOf[expert] >= 0 ? self : -1;
      let bestLoad = best < 0 ? 0 : ownRows + this.pairs[self];
      for (const worker of routes.inNode(frame.layer, expert)) {
        if (worker === self) continue;
        const load = flights.rows[worker] + this.pairs[worker];
        if (best >= 0 && load >= bestLoad) continue;
        best = worker;
        bestLoad = load;
      }
      this.chosen[p] = best;
      this.pairs[best]++;
    }
  }

  private sendOn(relay: Relay, worker: number, { layer }: MoeLayer): void {
    const { flights, plan, rowDeadlineMs } = this.options;
    const { frame } = relay;
    const row = this.rowsOf(frame, worker);
    const tag = flights.nextTag();
    const bytes = this.encode(frame, worker, row, tag);
    const cargo: Cargo = {
      scope: 'worker',
      landed: (answer) => relay.add(this.partialOf(answer, row)),
      lost: (code, why) => relay.fail(code, `worker ${plan.workers[worker].name}, layer ${layer}: ${why}`),
    };
    flights.send(worker, urgencyOf(row.length), bytes, tag, row.length, cargo, RELAY_DEADLINE * rowDeadlineMs);
  }

  /** Rows of the frame that have a pair for the worker, ascending; and in `placeOf` the place of each. */
  private rowsOf(frame: DispatchFrame, worker: number): Int32Array {
    const { rowSeen, placeOf } = this;
    rowSeen.fill(0, 0, frame.rows);
    let count = 0;
    for (let p = 0; p < frame.pairs; p++) {
      if (this.chosen[p] !== worker || rowSeen[frame.pairRow[p]] === 1) continue;
      rowSeen[frame.pairRow[p]] = 1;
      count++;
    }
    const row = new Int32Array(count);
    for (let r = 0, place = 0; r < frame.rows; r++) {
      if (rowSeen[r] === 0) continue;
      row[place] = r;
      placeOf[r] = place++;
    }
    return row;
  }

  private encode(frame: DispatchFrame, worker: number, row: Int32Array, tag: number): Uint8Array {
    const { worker: self, hidden } = this.options;
    const { epoch, step, layer, numericClass, dtype } = frame;
    const rows = row.length;
    const pairs = this.pairs[worker];
    const bytes = frameMemory(dispatchFrameBytes({ rows, pairs, hidden, dtype }));
    const header = { epoch, step, layer, source: self, rows, pairs, hidden, numericClass, dtype, scope: 'worker', tag } as const;
    const tables = encodeDispatchHeader(bytes, header);
    for (let p = 0, at = 0; p < frame.pairs; p++) {
      if (this.chosen[p] !== worker) continue;
      tables.pairRow[at] = this.placeOf[frame.pairRow[p]];
      tables.pairExpert[at] = frame.pairExpert[p];
      tables.pairWeight[at++] = frame.pairWeight[p];
    }
    const rowBytes = frame.rowsBytes / frame.rows;
    for (let i = 0; i < rows; i++) {
      const from = frame.rowsOffset + row[i] * rowBytes;
      bytes.set(frame.bytes.subarray(from, from + rowBytes), tables.rowsOffset + i * rowBytes);
    }
    sealFrame(bytes);
    return bytes;
  }

  private partialOf(answer: CombineFrame, row: Int32Array): PartialSums {
    const { hidden } = this.options;
    if (answer.rows !== row.length || answer.hidden !== hidden) {
      throw new SwitchyardError('bad_frame', `an answer of ${answer.rows} rows of ${answer.hidden} to ${row.length} of ${hidden}`);
    }
    return { row, bytes: answer.bytes, offset: answer.sumOffset, length: answer.sumBytes };
  }
}
