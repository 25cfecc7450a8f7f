import type { ModelLane } from '../model/contract.ts';
import type { LaneWork } from './lanes.ts';
import type { RoutingReplay } from './routing-replay.ts';
import { failIncompleteRows } from './row-failures.ts';
import type { StepLimits } from './schedule.ts';
import { StepBatch } from './step-batch.ts';
import type { StepProgress } from './step-progress.ts';
import { Activity, type TimeSplit } from './time-split.ts';

/** How the rows of a MoE layer reach their experts. */
export interface LayerRunner {
  /**
   * Fills the sums of MoE layer `layer` for the rows of the batch. Null: done; else resolves when each row's sum is complete or its sequence has failed. Rows of
   * failed sequences are left out.
   */
  runLayer(layer: number, batch: StepBatch): Promise<void> | null;
}

/** One step at a time over one lane of the model. */
export class StepLane {
  readonly work: LaneWork;
  readonly model: ModelLane;
  readonly limits: StepLimits;
  readonly batch: StepBatch;
  /** Of the running step; null: the lane is free. */
  progress: StepProgress | null = null;
  private readonly exchange: LayerRunner;
  private readonly replay: RoutingReplay | null;
  private readonly times: TimeSplit;

  constructor(work: LaneWork, model: ModelLane, limits: StepLimits, exchange: LayerRunner, replay: RoutingReplay | null, times: TimeSplit) {
    this.work = work;
    this.model = model;
    this.limits = limits;
    this.exchange = exchange;
    this.replay = replay;
    this.times = times;
    this.batch = new StepBatch(model.createBatch());
  }

  /** The whole step in one native call. */
  runWhole(): void {
    const startedMs = performance.now();
    this.model.runWhole!(this.batch.native);
    failIncompleteRows(this.model, null, this.batch);
    this.times.add(Activity.attention, startedMs);
  }

  /**
   * Segment by segment, each followed by its layer's exchange, up to the logits, which belong to all lanes: `read` takes them before anything else runs. Keeps
   * behind `ahead`, a step that began earlier and may have the tokens before these.
   */
  async runSegments(ahead: StepProgress | null, read: () => void): Promise<void> {
    const { batch, model } = this;
    const layers = model.moe.length;
    for (let layer = 0; layer <= layers; layer++) {
      const passed = ahead?.passed(layer) ?? null;
      if (passed !== null) await passed;
      const startedMs = performance.now();
      model.runSegment(layer, batch.native);
      failIncompleteRows(model, layer, batch);
      this.times.add(Activity.attention, startedMs);
      if (layer === layers) break;
      this.replay?.apply(layer, model.moe[layer], batch);
      this.progress!.advance();
      const exchanged = this.exchange.runLayer(layer, batch);
      // With nothing to wait for, the event loop still turns once a layer: other homes' rows must not wait for a whole step.
      await (exchanged ?? nextTurn());
    }
    read();
  }
}

function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
