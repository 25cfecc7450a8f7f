import { type ErrorCode, Finish, limits, type Submit, SwitchyardError, type Tokens, type TraceRows } from '@switchyard/proto';
import { Residency } from '../kv/residency.ts';
import type { Model } from '../model/contract.ts';
import type { Counters } from './counters.ts';
import { Readout } from './readout.ts';
import type { RoutingReplay } from './routing-replay.ts';
import { decideStep, type Schedulable, type StepDecision, type StepLimits } from './schedule.ts';
import { Sequence } from './sequence.ts';
import { StepBatch } from './step-batch.ts';
import { StepOutput } from './step-output.ts';
import { validateSubmit } from './submit-validation.ts';
import { Activity, type TimeSplit } from './time-split.ts';
import { traceRows } from './trace-rows.ts';

/** How the rows of a MoE layer reach their experts. */
export interface LayerRunner {
  /** Resolves when every peer has been dialled once; null when that is so. A step does not begin before. */
  readonly connecting: Promise<void> | null;
  /**
   * Fills the sums of MoE layer `layer` for the rows of the batch. Null: done; else resolves when each row's sum is complete or its sequence has failed. Rows of
   * failed sequences are left out.
   */
  runLayer(layer: number, batch: StepBatch): Promise<void> | null;
}

export interface EngineOptions {
  model: Model;
  exchange: LayerRunner;
  counters: Counters;
  times: TimeSplit;
  /** Rows of one step and sequences of one batch; what the model was loaded for bounds them. */
  maxBatchRows: number;
  maxSequences: number;
  maxLogitRows: number;
  prefixCache: boolean;
  /** Replaces the routers' choices; null: they stand. */
  replay: RoutingReplay | null;
  /** Receives everything that steps produce, in order. */
  onTokens: (tokens: Tokens) => void;
  onTrace: (rows: TraceRows) => void;
}

/**
 * Tokens of running streams are handed over together when steps are shorter than this: a message per step would cost more than the step of a small model.
 * First tokens and ends never wait, nor does anything once the worker has no more work.
 */
const COALESCE_MS = 1;

/** A step expected to take longer is run layer by layer with a turn of the event loop between, so that heartbeats and cancels are served meanwhile. */
const LONG_STEP_MS = 250;

/** Share of the blocks that admission leaves free. */
const WATERMARK = 0.01;

/**
 * The step loop of a home worker: schedule, fill the batch, run, sample, emit. One step at a time; between steps the event loop turns once, so that control
 * messages, cancels and other homes' rows are served. Without work nothing runs, and no timer is in the path.
 *
 * What a request receives is a function of the request and the weights: scheduling, batching, preemption and prefix hits decide when a row is computed, never
 * what it is.
 */
export class Engine {
  readonly residency: Residency;
  private readonly options: EngineOptions;
  private readonly model: Model;
  private readonly times: TimeSplit;
  private readonly counters: Counters;
  private readonly readout: Readout;
  private readonly batch: StepBatch;
  private readonly stepLimits: StepLimits;
  private readonly decision: StepDecision;
  /** Tokens of one sequence at most: what the model and the cache can hold. */
  private readonly capacity: number;
  private readonly live = new Map<number, Sequence>();
  /** Oldest first. */
  private running: Sequence[] = [];
  private waiting: Sequence[] = [];
  private readonly output = new StepOutput();
  private lastFlushMs = 0;
  private looping = false;
  /** Since when no time has been booked, and the seconds spent on others by then: idle time, or a turn of the event loop between steps. */
  private unbookedMs = performance.now();
  private unbookedOthers = 0;
  private lastStepEndMs = performance.now();
  /** Smoothed; unknown at first, so that the first prompt of a large model does not silence the worker for seconds. */
  private msPerRow = LONG_STEP_MS;
  private refusing: SwitchyardError | null = null;
  private drained: (() => void)[] = [];
  /** Set by the control plane; routing traces reveal prompts, so they are off until someone asks. */
  tracing = false;

  constructor(options: EngineOptions) {
    this.options = options;
    this.model = options.model;
    this.times = options.times;
    this.counters = options.counters;
    const { shape } = options.model;
    this.residency = new Residency(shape.kvBlocks, shape.blockTokens, options.prefixCache, options.counters);
    this.batch = new StepBatch(options.model.createBatch());
    this.capacity = Math.min(shape.maxContext, shape.kvBlocks * shape.blockTokens);
    this.readout = new Readout(options.model, this.capacity, this.output, options.counters);
    this.stepLimits = {
      rows: options.maxBatchRows,
      sequences: options.maxSequences,
      logitRows: options.maxLogitRows,
      blockTokens: shape.blockTokens,
      watermarkBlocks: Math.ceil(shape.kvBlocks * WATERMARK),
    };
    this.decision = { rows: new Int32Array(options.maxSequences), kept: 0, admitted: 0 };
  }

  /** Takes a request. Refusals arrive as an error entry like any other end, never as an exception. */
  submit(request: Submit): void {
    const refusal = this.refuse(request);
    if (refusal !== null) {
      this.output.addError(request.request, refusal);
    } else {
      const { shape } = this.model;
      const variant = this.model.ropeVariant(Math.min(request.prompt.length + request.maxTokens, this.capacity));
      const replayed = this.options.replay?.sequenceOf(request) ?? '';
      const scope = `${request.tenant}\0${variant}\0${shape.numericClass.name}\0${replayed}`;
      const sequence = new Sequence(request, scope, variant, this.residency.pool);
      this.live.set(request.request, sequence);
      this.waiting.push(sequence);
    }
    this.wake();
  }

  /** Ends a request within one step. Unknown ids are none of our business: the end may have crossed the cancel. */
  cancel(request: number): void {
    const sequence = this.live.get(request);
    if (sequence === undefined) return;
    sequence.cancelled = true;
    this.wake();
  }

  /** Ends all requests with this error. */
  failAll(reason: SwitchyardError): void {
    for (const sequence of this.live.values()) sequence.failure ??= reason;
    this.cancelAll();
  }

  /** Ends all requests without a word: whoever asked for them is gone, and its request numbers may be used again. */
  abandonAll(): void {
    for (const sequence of this.live.values()) {
      sequence.abandoned = true;
      sequence.cancelled = true;
    }
    this.live.clear();
    this.wake();
  }

  private cancelAll(): void {
    for (const request of this.live.keys()) this.cancel(request);
  }

  /** From now on new requests are refused with `reason`. Resolves when the ones already taken have ended. */
  drain(reason: SwitchyardError): Promise<void> {
    this.refusing = reason;
    if (!this.workPending) return Promise.resolve();
    return new Promise((resolve) => {
      this.drained.push(resolve);
    });
  }

  get runningCount(): number {
    return this.running.length;
  }

  get waitingCount(): number {
    return this.waiting.length;
  }

  get workPending(): boolean {
    return this.running.length + this.waiting.length > 0;
  }

  get lastStepAgeMs(): number {
    return performance.now() - this.lastStepEndMs;
  }

  /** Books idle time up to now, so that statistics taken in between add up. */
  settleIdle(): void {
    if (!this.looping) this.book(Activity.idle);
  }

  private book(activity: Activity): void {
    this.unbookedMs = this.times.addWaiting(activity, this.unbookedMs, this.unbookedOthers);
    this.unbookedOthers = this.times.others;
  }

  private refuse(request: Submit): SwitchyardError | null {
    if (this.refusing !== null) return this.refusing;
    if (this.live.has(request.request)) return new SwitchyardError('invalid_request', `request ${request.request} is running already`);
    if (this.waiting.length >= limits.requestsWaitingMax) {
      return new SwitchyardError(
        'queue_full',
        `${this.waiting.length} requests wait on this worker; the limit is ${limits.requestsWaitingMax}`,
      );
    }
    return validateSubmit(request, this.model.shape.vocab, this.capacity) ?? this.options.replay?.refuse(request) ?? null;
  }

  private wake(): void {
    if (this.looping) return;
    this.settleIdle();
    this.looping = true;
    setImmediate(this.turn);
  }

  private readonly turn = (): void => {
    if (!this.workPending) {
      this.flush();
      this.book(Activity.other);
      this.looping = false;
      for (const resolve of this.drained.splice(0)) resolve();
      return;
    }
    const unfinished = this.step();
    if (unfinished === null) setImmediate(this.turn);
    else void unfinished.then(() => setImmediate(this.turn));
  };

  /** One step. Null when it is over; a promise when rows are on their way to other workers. */
  private step(): Promise<void> | null {
    this.book(Activity.other);
    const startedMs = this.unbookedMs;
    const secondsBefore = this.measured();
    const { batch } = this;
    this.removeCancelled();
    this.schedule();
    if (batch.rows === 0) {
      this.endStep(startedMs, secondsBefore);
      return null;
    }
    if (this.runsWhole()) {
      try {
        this.runWhole();
      } catch (error) {
        this.failBatch(error);
      }
      this.complete(startedMs, secondsBefore);
      return null;
    }
    return this.runSegments()
      .catch((error: unknown) => this.failBatch(error))
      .then(() => this.complete(startedMs, secondsBefore));
  }

  private runsWhole(): boolean {
    return this.options.replay === null && this.model.runWhole !== null && this.msPerRow * this.batch.rows < LONG_STEP_MS;
  }

  private runWhole(): void {
    const startedMs = performance.now();
    this.model.runWhole!(this.batch.native);
    this.times.add(Activity.attention, startedMs);
    for (let i = 0; i < this.model.moe.length; i++) this.countExperts(i);
  }

  private async runSegments(): Promise<void> {
    const { batch, model, options, times } = this;
    if (options.exchange.connecting !== null) await options.exchange.connecting;
    for (let layer = 0; layer < model.moe.length; layer++) {
      const startedMs = performance.now();
      model.runSegment(layer, batch.native);
      options.replay?.apply(layer, batch);
      times.add(Activity.attention, startedMs);
      const exchanged = options.exchange.runLayer(layer, batch);
      // With nothing to wait for, the event loop still turns once a layer: other homes' rows must not wait for a whole step.
      await (exchanged ?? nextTurn());
    }
    const startedMs = performance.now();
    model.runSegment(model.moe.length, batch.native);
    times.add(Activity.attention, startedMs);
  }

  /** Applies the scheduler's decision and fills the batch. */
  private schedule(): void {
    const { batch, decision, residency } = this;
    decideStep(this.running, this.waiting, residency.pool.free, this.stepLimits, this.admissionCost, decision);
    batch.clear();
    if (decision.kept < this.running.length) this.preempt(decision.kept);
    let admitted = 0;
    while (admitted < decision.admitted && residency.admit(this.waiting[admitted])) admitted++;
    if (admitted > 0) this.running.push(...this.waiting.splice(0, admitted));
    for (let i = 0; i < this.running.length; i++) {
      const sequence = this.running[i];
      residency.grow(sequence);
      // A prefix that was cached when the decision was made may have shrunk or grown since; never run more than is pending.
      const rows = Math.min(decision.rows[i], sequence.length - sequence.computed);
      if (rows > 0) batch.add(sequence, rows);
    }
  }

  private readonly admissionCost = (sequence: Schedulable) => this.residency.cost(sequence as Sequence);

  private preempt(kept: number): void {
    const preempted = this.running.splice(kept);
    for (const sequence of preempted) sequence.releaseBlocks();
    this.waiting.unshift(...preempted);
    this.counters.preemptions += preempted.length;
  }

  private removeCancelled(): void {
    if (!this.running.some(isCancelled) && !this.waiting.some(isCancelled)) return;
    for (const sequence of [...this.running, ...this.waiting]) {
      if (sequence.cancelled) this.end(sequence);
    }
    this.forgetEnded();
  }

  /** Everything after the logits: cache, failures, tokens. */
  private complete(startedMs: number, secondsBefore: number): void {
    const samplingMs = performance.now();
    const { batch } = this;
    if (this.tracing) this.trace();
    let logit = 0;
    for (let s = 0; s < batch.sequences.length; s++) {
      const sequence = batch.sequences[s];
      const first = batch.native.seqRow[s];
      const rows = batch.native.seqRow[s + 1] - first;
      const firstLogit = logit;
      while (logit < batch.native.logitRows && batch.native.logitRow[logit] < first + rows) logit++;
      if (sequence.failure === null) {
        sequence.computed += rows;
        this.residency.publish(sequence);
      }
      if (sequence.failure !== null || sequence.cancelled) this.end(sequence);
      else if (logit > firstLogit) this.readOrFail(sequence, firstLogit, logit);
    }
    this.forgetEnded();
    this.counters.steps++;
    this.times.add(Activity.sampling, samplingMs);
    const elapsedMs = performance.now() - startedMs;
    this.msPerRow = this.msPerRow * 0.8 + (elapsedMs / batch.rows) * 0.2;
    this.endStep(startedMs, secondsBefore);
  }

  private endStep(startedMs: number, secondsBefore: number): void {
    const now = performance.now();
    if (this.output.urgent || now - this.lastFlushMs >= COALESCE_MS) this.flush();
    this.lastStepEndMs = performance.now();
    this.times.seconds[Activity.other] += Math.max(0, (this.lastStepEndMs - startedMs) / 1000 - (this.measured() - secondsBefore));
    this.unbookedMs = this.lastStepEndMs;
    this.unbookedOthers = this.times.others;
  }

  /** Seconds that steps have booked under a name of their own. */
  private measured(): number {
    const { seconds } = this.times;
    return (
      seconds[Activity.attention] +
      seconds[Activity.exchangeWait] +
      seconds[Activity.expertsOwn] +
      seconds[Activity.expertsOthers] +
      seconds[Activity.sampling]
    );
  }

  /** Logits that cannot be read (no number among them) end their own sequence only. */
  private readOrFail(sequence: Sequence, firstLogit: number, endLogit: number): void {
    try {
      this.readout.read(sequence, firstLogit, endLogit);
    } catch (error) {
      sequence.failure = asFailure(error, 'sampling failed');
      this.end(sequence);
    }
  }

  /** Ends a sequence that will produce nothing more, with its reason. */
  private end(sequence: Sequence): void {
    sequence.finished = true;
    if (sequence.abandoned) return;
    if (sequence.failure !== null) this.output.addError(sequence.request.request, sequence.failure);
    else this.output.addEnd(sequence.request.request, Finish.cancelled, 0);
  }

  private forgetEnded(): void {
    let ended = false;
    for (const list of [this.running, this.waiting]) {
      for (const sequence of list) {
        if (!sequence.finished) continue;
        sequence.releaseBlocks();
        // An abandoned request's number may belong to another by now.
        if (!sequence.abandoned) this.live.delete(sequence.request.request);
        ended = true;
      }
    }
    if (!ended) return;
    this.running = this.running.filter(isUnfinished);
    this.waiting = this.waiting.filter(isUnfinished);
  }

  /** The kernels refused the batch (corrupt weights, out of memory): every sequence in it fails, the worker goes on. */
  private failBatch(error: unknown): void {
    const failure = asFailure(error, 'the step failed');
    for (const sequence of this.batch.sequences) sequence.failure ??= failure;
  }

  private countExperts(layer: number): void {
    const rows = this.batch.rows;
    this.counters.addExperts(layer, this.model.moe[layer].ids.i32, rows * this.model.shape.topK);
    this.counters.rowsDispatched += rows;
  }

  private trace(): void {
    const rows = traceRows(this.batch, this.model);
    if (rows !== null) this.options.onTrace(rows);
  }

  private flush(): void {
    if (this.output.empty) return;
    this.lastFlushMs = performance.now();
    this.options.onTokens(this.output.take());
  }
}

function isCancelled(sequence: Sequence): boolean {
  return sequence.cancelled;
}

function isUnfinished(sequence: Sequence): boolean {
  return !sequence.finished;
}

function asFailure(error: unknown, what: string): SwitchyardError {
  const code: ErrorCode = error instanceof SwitchyardError ? error.code : 'internal';
  return new SwitchyardError(code, `${what}: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
}

function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
