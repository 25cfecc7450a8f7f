import type { Native } from '@switchyard/native';
import {
  allocateFrame,
  type CombineFrame,
  dispatchFrameBytes,
  type ErrorCode,
  encodeDispatchHeader,
  limits,
  parseFrame,
  SwitchyardError,
  sealFrame,
} from '@switchyard/proto';
import type { Counters } from '../engine/counters.ts';
import type { LayerRunner } from '../engine/engine.ts';
import type { StepBatch } from '../engine/step-batch.ts';
import { Activity, type TimeSplit } from '../engine/time-split.ts';
import type { Model, MoeLayer } from '../model/contract.ts';
import type { ExpertRoutes } from './expert-routes.ts';
import { type Dial, PeerLinks } from './peer-links.ts';
import { RowPartition } from './row-partition.ts';

export interface HomeExchangeOptions {
  native: Native;
  model: Model;
  routes: ExpertRoutes;
  epoch: number;
  /** Rows of one step at most. */
  maxRows: number;
  rowDeadlineMs: number;
  counters: Counters;
  times: TimeSplit;
  dial: Dial;
}

/** A dispatch frame on its way. */
interface Flight {
  tag: number;
  layer: number;
  sentMs: number;
}

/**
 * The home's side of the exchange. For each MoE layer: split the rows by destination, send each destination one frame, compute the local pairs meanwhile, add the
 * sums that come back in any order. A destination that dies, refuses or is late fails the sequences whose rows it had, and no others.
 */
export class HomeExchange implements LayerRunner {
  readonly links: PeerLinks;
  connecting: Promise<void> | null = null;
  private readonly options: HomeExchangeOptions;
  private readonly partition: RowPartition;
  /** [worker] memory of its dispatch frame, reused once the answer is there: until then the link may still read it. */
  private readonly buffers: Uint8Array[];
  /** [worker] */
  private readonly flights: (Flight | null)[];
  private inFlight = 0;
  private lastTag = 0;
  private step = 0;
  private batch: StepBatch | null = null;
  private landed: (() => void) | null = null;
  private readonly watchdog: NodeJS.Timeout;

  constructor(options: HomeExchangeOptions) {
    this.options = options;
    const { routes, model, maxRows } = options;
    this.partition = new RowPartition(routes, maxRows, model.shape.topK);
    this.buffers = Array.from({ length: routes.workers }, () => new Uint8Array(0));
    this.flights = new Array(routes.workers).fill(null);
    this.links = new PeerLinks(options.dial, {
      up: (worker) => routes.setReachable(worker, true),
      down: (worker, reason) => this.lose(worker, reason),
      frame: (worker, frame) => this.receive(worker, frame),
    });
    // Not in the path of any row: it only looks for rows that are late.
    this.watchdog = setInterval(() => this.checkDeadlines(), Math.max(10, options.rowDeadlineMs / 4));
    this.watchdog.unref();
  }

  /** Workers that hold experts can be dialled at these addresses. Others are ignored. */
  announce(worker: number, addresses: readonly string[]): void {
    if (!this.options.routes.peers().includes(worker)) return;
    this.links.announce(worker, addresses);
    const settled = this.links.settled().then(() => {
      if (this.connecting === settled) this.connecting = null;
    });
    this.connecting = settled;
  }

  runLayer(index: number, batch: StepBatch): Promise<void> | null {
    const { model, native, counters, routes } = this.options;
    const layer = model.moe[index];
    if (index === 0) this.step = (this.step + 1) % 2 ** 32;
    native.sumClear(layer.sum, batch.rows);
    this.partition.split(index, layer, batch, (row, expert) => batch.fail(row, routes.unavailable(index, expert)));
    counters.rowsDispatched += batch.rows;
    counters.remoteNodesVisited += this.partition.remoteNodes;
    if (this.partition.remote.length > 0) return this.exchange(index, layer, batch);
    this.runLocal(index, layer);
    return null;
  }

  async close(): Promise<void> {
    clearInterval(this.watchdog);
    await this.links.close();
  }

  private async exchange(index: number, layer: MoeLayer, batch: StepBatch): Promise<void> {
    this.batch = batch;
    let unsent = false;
    for (const worker of this.partition.remote) unsent = this.dispatch(worker, index, layer) || unsent;
    // Where bytes wait for the event loop, let it write them before local experts keep it busy.
    if (unsent) await this.wait(new Promise((resolve) => setImmediate(resolve)));
    try {
      this.runLocal(index, layer);
    } finally {
      // Even if the kernels refuse: a step ends when nothing of it is on the way any more.
      if (this.inFlight > 0) {
        await this.wait(
          new Promise((resolve) => {
            this.landed = resolve;
          }),
        );
      }
      this.batch = null;
    }
  }

  private async wait(event: Promise<void>): Promise<void> {
    const { times } = this.options;
    const waitingMs = performance.now();
    const othersBefore = times.others;
    await event;
    times.addWaiting(Activity.exchangeWait, waitingMs, othersBefore);
  }

  private runLocal(index: number, layer: MoeLayer): void {
    const { native, counters, times } = this.options;
    const { local } = this.partition;
    if (local.count === 0) return;
    const startedMs = performance.now();
    native.expertsRun(layer.experts, layer.x, local.count, local.row, local.slot, local.weight, layer.grid, layer.sum);
    counters.addExperts(index, local.expert, local.count);
    times.add(Activity.expertsOwn, startedMs);
  }

  /** Sends a worker its rows. Returns true when bytes of the frame wait for the event loop. */
  private dispatch(worker: number, index: number, layer: MoeLayer): boolean {
    this.flights[worker] = { tag: ++this.lastTag, layer: index, sentMs: performance.now() };
    this.inFlight++;
    try {
      const link = this.links.link(worker);
      if (link === null) throw new SwitchyardError('link_closed', 'there is no link to it');
      link.send(this.encode(worker, index, layer));
      this.links.countFrame(worker);
      return link.pendingBytes > 0;
    } catch (error) {
      this.fail(worker, 'worker_lost', error instanceof Error ? error.message : String(error));
      return false;
    }
  }

  private encode(worker: number, index: number, layer: MoeLayer): Uint8Array {
    const { native, model, epoch, routes } = this.options;
    const { hidden, numericClass } = model.shape;
    const { rows, pairs, row, pairRow, pairExpert, pairWeight } = this.partition.lanes[worker];
    const dtype = numericClass.wire;
    const frame = this.frameOf(worker, dispatchFrameBytes({ rows, pairs, hidden, dtype }));
    const tables = encodeDispatchHeader(frame, {
      epoch,
      step: this.step,
      layer: index,
      source: routes.home,
      rows,
      pairs,
      hidden,
      numericClass: numericClass.id,
      dtype,
      tag: this.lastTag,
    });
    for (let p = 0; p < pairs; p++) {
      tables.pairRow[p] = pairRow[p];
      tables.pairExpert[p] = pairExpert[p];
      tables.pairWeight[p] = pairWeight[p];
    }
    native.rowsEncode(layer.x, rows, row, dtype, frame, tables.rowsOffset);
    sealFrame(frame);
    return frame;
  }

  /** The worker's frame memory, at least `bytes` long, as exactly `bytes`. */
  private frameOf(worker: number, bytes: number): Uint8Array {
    if (this.buffers[worker].length < bytes)
      this.buffers[worker] = allocateFrame(Math.min(bytes * 2, Math.max(bytes, limits.frameBytesMax)));
    return this.buffers[worker].subarray(0, bytes);
  }

  private receive(worker: number, bytes: Uint8Array): void {
    const flight = this.flights[worker];
    try {
      const frame = parseFrame(bytes);
      if (frame.kind === 'dispatch') throw new SwitchyardError('bad_frame', 'a dispatch frame arrived on a link that answers only');
      if (flight === null || frame.tag !== flight.tag || frame.layer !== flight.layer) {
        throw new SwitchyardError('bad_frame', `an answer to tag ${frame.tag}, which is not in flight`);
      }
      if (frame.kind === 'error') this.fail(worker, frame.code, frame.message);
      else this.addSums(worker, frame, flight);
    } catch (error) {
      this.links.cut(worker, error instanceof SwitchyardError ? error : new SwitchyardError('bad_frame', String(error), { cause: error }));
    }
  }

  private addSums(worker: number, frame: CombineFrame, flight: Flight): void {
    const { native, model } = this.options;
    const lane = this.partition.lanes[worker];
    if (frame.rows !== lane.rows || frame.hidden !== model.shape.hidden) {
      throw new SwitchyardError('bad_frame', `an answer of ${frame.rows} rows of ${frame.hidden} to ${lane.rows} of ${model.shape.hidden}`);
    }
    native.sumAddEncoded(model.moe[flight.layer].sum, lane.rows, lane.row, frame.bytes, frame.sumOffset, frame.sumBytes);
    this.links.countRoundTrip(worker, (performance.now() - flight.sentMs) / 1000);
    this.land(worker);
  }

  private lose(worker: number, reason: SwitchyardError): void {
    this.options.routes.setReachable(worker, false);
    if (this.flights[worker] !== null) this.fail(worker, reason.code === 'deadline_exceeded' ? reason.code : 'worker_lost', reason.message);
  }

  /** The worker's rows will not come back: their sequences fail, and the frame's memory is left to the link. */
  private fail(worker: number, code: ErrorCode, why: string): void {
    const { routes, model } = this.options;
    const flight = this.flights[worker]!;
    const lane = this.partition.lanes[worker];
    const layer = model.shape.moeLayers[flight.layer];
    const error = new SwitchyardError(code, `worker ${routes.plan.workers[worker].name}, layer ${layer}: ${why}`);
    for (let i = 0; i < lane.rows; i++) this.batch!.fail(lane.row[i], error);
    this.buffers[worker] = new Uint8Array(0);
    this.land(worker);
  }

  private land(worker: number): void {
    this.flights[worker] = null;
    if (--this.inFlight > 0) return;
    const landed = this.landed;
    this.landed = null;
    landed?.();
  }

  private checkDeadlines(): void {
    const now = performance.now();
    const { rowDeadlineMs } = this.options;
    this.flights.forEach((flight, worker) => {
      if (flight === null || now - flight.sentMs < rowDeadlineMs) return;
      this.links.cut(
        worker,
        new SwitchyardError('deadline_exceeded', `no answer for ${Math.round(now - flight.sentMs)} ms; the limit is ${rowDeadlineMs}`),
      );
    });
  }
}
