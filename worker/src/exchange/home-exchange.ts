import type { Native } from '@switchyard/native';
import {
  type CombineFrame,
  dispatchFrameBytes,
  type ErrorCode,
  encodeDispatchHeader,
  frameMemory,
  giveBackFrame,
  SwitchyardError,
  sealFrame,
} from '@switchyard/proto';
import type { Counters } from '../engine/counters.ts';
import type { StepBatch } from '../engine/step-batch.ts';
import type { LayerRunner } from '../engine/step-lane.ts';
import { Activity, type TimeSplit } from '../engine/time-split.ts';
import type { Model, ModelLane, MoeLayer } from '../model/contract.ts';
import { type Doubts, doubtsAfter, noDoubts } from './doubts.ts';
import type { ExpertRoutes } from './expert-routes.ts';
import type { Cargo, Flights } from './flights.ts';
import { anotherMayTake, codeForClient } from './refusal.ts';
import { type Lane, RowPartition } from './row-partition.ts';
import { urgencyOf } from './urgency.ts';

export interface HomeExchangeOptions {
  native: Native;
  model: Model;
  routes: ExpertRoutes;
  flights: Flights;
  epoch: number;
  counters: Counters;
  times: TimeSplit;
}

/**
 * The home's side of the exchange, for one lane of the model. For each MoE layer: split the rows by destination, send each destination one frame, compute the local
 * pairs meanwhile, add the sums that come back in any order. Rows of a destination that dies, refuses or is late go again, to whoever else can compute them; the
 * sequences of those that nobody can fail, and no others.
 */
export class HomeExchange implements LayerRunner {
  private readonly options: HomeExchangeOptions;
  private readonly lane: ModelLane;
  private readonly partition: RowPartition;
  private inFlight = 0;
  private step = 0;
  private batch: StepBatch | null = null;
  private landed: (() => void) | null = null;

  constructor(options: HomeExchangeOptions, lane: ModelLane) {
    this.options = options;
    this.lane = lane;
    this.partition = new RowPartition(options.routes, lane.maxRows, options.model.shape.topK);
  }

  runLayer(index: number, batch: StepBatch): Promise<void> | null {
    const { native, counters, routes, times } = this.options;
    const startedMs = performance.now();
    const layer = this.lane.moe[index];
    if (index === 0) this.step = (this.step + 1) % 2 ** 32;
    native.sumClear(layer.sum, batch.rows);
    this.partition.split(index, layer, batch, (row, expert) => batch.fail(row, routes.unavailable(index, expert)));
    counters.rowsDispatched += batch.rows;
    counters.remoteNodesVisited += this.partition.remoteNodes;
    if (this.partition.remote.length === 0) {
      times.add(Activity.other, startedMs);
      this.runLocal(index, layer);
      return null;
    }
    this.batch = batch;
    let unsent = false;
    for (const lane of this.partition.remote) unsent = this.dispatch(lane, index, layer) || unsent;
    times.add(Activity.other, startedMs);
    return this.combine(index, layer, unsent);
  }

  private async combine(index: number, layer: MoeLayer, unsent: boolean): Promise<void> {
    // Where bytes wait for the event loop, let it write them before local experts keep it busy.
    if (unsent) await new Promise((resolve) => setImmediate(resolve));
    try {
      this.runLocal(index, layer);
    } finally {
      // Even if the kernels refuse: a layer ends when nothing of it is on the way any more.
      if (this.inFlight > 0) {
        await new Promise<void>((resolve) => {
          this.landed = resolve;
        });
      }
      this.batch = null;
    }
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

  /** Sends a destination its rows. Returns true when bytes of the frame wait for the event loop. */
  private dispatch(lane: Lane, index: number, layer: MoeLayer, doubts = noDoubts): boolean {
    const { flights } = this.options;
    const worker = this.partition.destination(lane);
    const tag = flights.nextTag();
    this.inFlight++;
    let frame: Uint8Array;
    try {
      frame = this.encode(lane, index, layer, tag);
    } catch (error) {
      this.fail(lane, worker, layer, 'internal', error instanceof Error ? error.message : String(error));
      return false;
    }
    const cargo = this.cargo(lane, worker, index, layer, doubts, frame.length);
    return flights.send(worker, urgencyOf(lane.rows), frame, tag, lane.rows, cargo);
  }

  private cargo(lane: Lane, worker: number, index: number, layer: MoeLayer, doubts: Doubts, bytes: number): Cargo {
    return {
      scope: scopeOf(lane),
      departed: () => this.bill(lane, bytes),
      landed: (answer) => {
        this.addSums(lane, answer, layer);
        this.land();
      },
      lost: (code, why) => {
        if (!anotherMayTake(code)) {
          this.fail(lane, worker, layer, code, why);
          return;
        }
        const doubted = doubtsAfter(doubts, lane, worker, this.options.routes.nodeOf);
        this.sendAgain(lane, index, layer, doubted, this.failure(worker, layer, code, why));
      },
    };
  }

  /**
   * A frame came back without sums, so nothing of it is in ours, and what it asked for may be had elsewhere: a gateway refuses the whole frame for one worker that it
   * cannot reach, and experts may have replicas. Its pairs go again, each worker's by themselves, to whoever can be reached now and has not refused them, those last
   * who may be the reason, until nobody is left.
   */
  private sendAgain(lost: Lane, index: number, layer: MoeLayer, doubts: Doubts, error: SwitchyardError): void {
    const { hopeless, lanes } = this.partition.again(lost, index, doubts);
    for (const row of hopeless) this.batch!.fail(row, error);
    for (const lane of lanes) this.dispatch(lane, index, layer, doubts);
    this.land();
  }

  private encode(lane: Lane, index: number, layer: MoeLayer, tag: number): Uint8Array {
    const { native, model, epoch, routes } = this.options;
    const { hidden, numericClass } = model.shape;
    const { rows, pairs, row, pairRow, pairExpert, pairWeight } = lane;
    const dtype = numericClass.wire;
    const frame = frameMemory(dispatchFrameBytes({ rows, pairs, hidden, dtype }));
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
      scope: scopeOf(lane),
      tag,
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

  private addSums(lane: Lane, answer: CombineFrame, layer: MoeLayer): void {
    const { native, model } = this.options;
    const { hidden } = model.shape;
    if (answer.rows !== lane.rows || answer.hidden !== hidden) {
      throw new SwitchyardError('bad_frame', `an answer of ${answer.rows} rows of ${answer.hidden} to ${lane.rows} of ${hidden}`);
    }
    native.sumAddEncoded(layer.sum, lane.rows, lane.row, answer.bytes, answer.sumOffset, answer.sumBytes);
    this.bill(lane, answer.bytes.length);
    giveBackFrame(answer.bytes);
  }

  /** Shares a frame's bytes among the sequences whose rows it has. */
  private bill(lane: Lane, bytes: number): void {
    const share = bytes / lane.rows;
    const crosses = this.partition.crosses(lane);
    for (let i = 0; i < lane.rows; i++) {
      const traffic = this.batch!.traffic(lane.row[i]);
      if (crosses) traffic.interNodeBytes += share;
      else traffic.intraNodeBytes += share;
    }
  }

  /** The destination's rows will not come back: their sequences fail. */
  private fail(lane: Lane, worker: number, layer: MoeLayer, code: ErrorCode, why: string): void {
    const error = this.failure(worker, layer, code, why);
    for (let i = 0; i < lane.rows; i++) this.batch!.fail(lane.row[i], error);
    this.land();
  }

  private failure(worker: number, { layer }: MoeLayer, code: ErrorCode, why: string): SwitchyardError {
    return new SwitchyardError(codeForClient(code), `worker ${this.options.routes.plan.workers[worker].name}, layer ${layer}: ${why}`);
  }

  private land(): void {
    if (--this.inFlight > 0) return;
    const landed = this.landed;
    this.landed = null;
    landed?.();
  }
}

function scopeOf(lane: Lane): Cargo['scope'] {
  return lane.worker === null ? 'node' : 'worker';
}
