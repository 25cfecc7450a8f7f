import { type ErrorCode, Finish, limits, type Submit, SwitchyardError, type Tokens, type TraceRows } from '@switchyard/proto';
import { Residency } from '../kv/residency.ts';
import type { Model } from '../model/contract.ts';
import type { Counters } from './counters.ts';
import { Drafting } from './drafting.ts';
import { HitRates } from './hit-rates.ts';
import { laneWork } from './lanes.ts';
import { type NodeVisits, routingOf } from './node-visits.ts';
import { Readout } from './readout.ts';
import type { RoutingReplay } from './routing-replay.ts';
import { countOvertaken, decideStep, OVERTAKEN_MAX, type StepDecision } from './schedule.ts';
import { Sequence } from './sequence.ts';
import { type LayerRunner, StepLane } from './step-lane.ts';
import { stepLimits } from './step-limits.ts';
import { StepOutput } from './step-output.ts';
import { StepProgress } from './step-progress.ts';
import { validateSubmit } from './submit-validation.ts';
import { Activity, type TimeSplit } from './time-split.ts';
import { traceRows } from './trace-rows.ts';

export interface EngineOptions {
  model: Model;
  /** One for each lane of the model. */
  exchanges: readonly LayerRunner[];
  /** Resolves when every peer has been dialled once; null when that is so. A step does not begin before. */
  connecting: () => Promise<void> | null;
  counters: Counters;
  times: TimeSplit;
  /** Null where all experts are on one node. */
  visits: NodeVisits | null;
  /** Rows of one step and sequences of one batch; what the model was loaded for bounds them. */
  maxBatchRows: number;
  maxSequences: number;
  maxLogitRows: number;
  prefixCache: boolean;
  /** Tokens that a stream may guess for one step; 0: none. */
  draftMax: number;
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
 * The step loop of a home worker: schedule, fill the batch, run, sample, emit. Each lane has one step at a time; between steps the event loop turns once, so that
 * control messages, cancels and other homes' rows are served. Without work nothing runs, and no timer is in the path.
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
  /** Null where nothing is guessed. */
  private readonly drafting: Drafting | null;
  private readonly hitRates = HitRates.ofWorker();
  private readonly lanes: readonly StepLane[];
  private readonly decision: StepDecision;
  /** Tokens of one sequence at most: what the model and the cache can hold. */
  private readonly capacity: number;
  private readonly live = new Map<number, Sequence>();
  /** Oldest first. */
  private running: Sequence[] = [];
  private waiting: Sequence[] = [];
  /** Somebody who waits may be admitted next: the last decision found room, or had no more rows, or somebody came or ended since. */
  private admits = false;
  private readonly output = new StepOutput();
  private lastFlushMs = 0;
  /** A turn of the loop is due. */
  private turning = false;
  /** The step that began last among those over prompts; the next one keeps behind it. */
  private lastPromptStep: StepProgress | null = null;
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
    this.capacity = Math.min(shape.maxContext, shape.kvBlocks * shape.blockTokens);
    this.drafting = options.draftMax > 0 ? new Drafting(options.draftMax, this.capacity) : null;
    this.readout = new Readout(options.model, this.capacity, this.output, options.counters);
    const { lanes } = options.model;
    // Whoever streams has a row of every step: one more would stand still after its first token until another ends. The first lane is that of decodes.
    const sequences = Math.min(options.maxSequences, lanes[0].maxRows, options.maxBatchRows);
    this.lanes = lanes.map((lane, i) => {
      const limits = {
        rows: Math.min(lane.maxRows, options.maxBatchRows),
        sequences,
        logitRows: options.maxLogitRows,
        blockTokens: shape.blockTokens,
        watermarkBlocks: Math.ceil(shape.kvBlocks * WATERMARK),
        othersWait: false,
      };
      return new StepLane(lanes.length === 1 ? 'all' : laneWork[i], lane, limits, options.exchanges[i], options.replay, options.times);
    });
    this.decision = {
      rows: new Int32Array(2 * sequences),
      preempted: new Uint8Array(sequences),
      admitted: 0,
      admittedAt: new Int32Array(sequences),
    };
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
      // Where nothing is guessed, no answer has to be followed through what its client expects.
      const needed = this.drafting === null ? { ...request, prediction: [] } : request;
      const sequence = new Sequence(needed, scope, variant, this.residency.pool, this.hitRates);
      this.residency.lookAt(sequence);
      this.live.set(request.request, sequence);
      this.waiting.push(sequence);
      this.admits = true;
      // The step that begins with it may be a long one.
      this.flush();
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
    // What waited to be told with the tokens of the next step, too.
    this.output.take();
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

  /** Those that want a place. */
  get waitingCount(): number {
    return this.waiting.length - this.waitingForPrefixCount;
  }

  /** Those that wait for what others are computing. */
  get waitingForPrefixCount(): number {
    return this.waiting.reduce((count, { awaitsPrefix }) => count + Number(awaitsPrefix), 0);
  }

  get workPending(): boolean {
    return this.running.length + this.waiting.length > 0;
  }

  get lastStepAgeMs(): number {
    return performance.now() - this.lastStepEndMs;
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
    if (this.turning) return;
    this.turning = true;
    setImmediate(this.turn);
  }

  private readonly turn = (): void => {
    this.turning = false;
    this.times.enter(Activity.other);
    this.removeCancelled();
    this.beginFreeLanes();
    const waiting = this.lanes.some((lane) => lane.progress !== null);
    // Refusals and cancels come between steps, and the steps under way may be waiting for others.
    if (this.output.urgent) this.flush();
    if (this.workPending) {
      if (waiting) this.times.enter(Activity.exchangeWait);
      else this.wake();
      return;
    }
    this.flush();
    this.times.enter(Activity.idle);
    for (const resolve of this.drained.splice(0)) resolve();
  };

  /**
   * Of the lanes of prompts one a turn: a step begins with the attention of a whole chunk, and the rows of a decode that come back meanwhile must not wait for all
   * of them.
   */
  private beginFreeLanes(): void {
    let begun: StepLane | null = null;
    for (const lane of this.lanes) {
      if (lane.progress !== null) continue;
      if (lane.work !== 'prefill') this.begin(lane);
      else if (begun === null) {
        this.begin(lane);
        begun = lane;
      } else {
        // Where one lane finds nothing of prompts to do, the next ones would not either.
        if (begun.batch.rows > 0) this.wake();
        return;
      }
    }
  }

  /** Begins a step on a free lane if anything is due for it; one that needs no other worker is over on return. */
  private begin(lane: StepLane): void {
    const startedMs = performance.now();
    this.schedule(lane);
    if (lane.batch.rows === 0) return;
    if (this.runsWhole(lane)) {
      try {
        lane.runWhole();
        for (let i = 0; i < lane.model.moe.length; i++) this.countExperts(lane, i);
        lane.batch.billAtHome(lane.model.moe.length, this.model.shape.topK);
      } catch (error) {
        this.failBatch(lane, error);
      }
      this.complete(lane, startedMs);
      return;
    }
    lane.progress = new StepProgress();
    void this.runSegments(lane, lane.progress, startedMs);
  }

  private runsWhole({ model, batch }: StepLane): boolean {
    return this.options.replay === null && model.runWhole !== null && this.msPerRow * batch.rows < LONG_STEP_MS;
  }

  private async runSegments(lane: StepLane, progress: StepProgress, startedMs: number): Promise<void> {
    const ahead = lane.work === 'prefill' ? this.lastPromptStep : null;
    if (lane.work === 'prefill') this.lastPromptStep = progress;
    let completing = false;
    const finish = () => {
      completing = true;
      this.complete(lane, startedMs);
      progress.end();
      lane.progress = null;
    };
    try {
      const connecting = this.options.connecting();
      if (connecting !== null) await connecting;
      await lane.runSegments(ahead, finish);
    } catch (error) {
      // A step that is half completed cannot be completed again: the process ends, as it does where a step that ran whole comes to that.
      if (completing) throw error;
      this.failBatch(lane, error);
      // What keeps behind this step would overtake those before it, which may have the beginning of its sequences.
      await ahead?.passed(lane.model.moe.length);
      finish();
    }
    this.wake();
  }

  /** Applies the scheduler's decision and fills the lane's batch. */
  private schedule(lane: StepLane): void {
    const { decision, residency } = this;
    const { batch } = lane;
    const limits = stepLimits(lane, this.running, this.waiting, this.times);
    if (lane.work !== 'prefill') this.drafting?.propose(this.running, Math.min(limits.rows, limits.logitRows));
    decideStep(lane.work, this.running, this.waiting, residency.pool.free, limits, residency.admissionRule, decision);
    countOvertaken(this.running, this.waiting, decision);
    batch.clear();
    for (let i = 0; i < this.running.length; i++) if (decision.preempted[i] === 1) this.running[i].releaseBlocks();
    const before = this.running.length;
    for (let i = 0; i < before; i++) this.addRows(lane, this.running[i], decision.rows[i]);
    for (let i = 0; i < decision.admitted; i++) {
      const sequence = this.waiting[decision.admittedAt[i]];
      if (!residency.admit(sequence)) break;
      this.running.push(sequence);
      this.addRows(lane, sequence, decision.rows[before + i]);
    }
    for (let i = this.running.length - before - 1; i >= 0; i--) this.waiting.splice(decision.admittedAt[i], 1);
    if (lane.work !== 'decode') this.admits = decision.admitted > 0 || batch.rows === limits.rows;
    this.requeue(before);
  }

  private addRows({ batch }: StepLane, sequence: Sequence, decided: number): void {
    if (decided === 0) return;
    const pending = sequence.length - sequence.scheduled;
    const { draft } = sequence;
    draft.checked = pending === 1 ? decided - 1 : 0;
    this.residency.grow(sequence);
    // A prefix that was cached when the decision was made may have shrunk or grown since; never run more than is pending.
    const rows = Math.min(decided, pending + draft.checked);
    if (rows <= 0) return;
    sequence.start();
    batch.add(sequence, rows);
  }

  /** Of the first `count` running sequences, the preempted ones wait again, before all others. */
  private requeue(count: number): void {
    const { preempted } = this.decision;
    const requeued = this.running.filter((_, i) => i < count && preempted[i] === 1);
    if (requeued.length === 0) return;
    this.running = this.running.filter((sequence) => !requeued.includes(sequence));
    this.waiting.unshift(...requeued);
    // Their clients see them stand still.
    for (const sequence of requeued) sequence.overtaken = OVERTAKEN_MAX;
    this.counters.preemptions += requeued.length;
  }

  /** What a step still has of a sequence is left to that step. */
  private removeCancelled(): void {
    if (!this.running.some(isCancelled) && !this.waiting.some(isCancelled)) return;
    for (const sequence of [...this.running, ...this.waiting]) {
      if (sequence.cancelled && sequence.inFlight === 0) this.end(sequence);
    }
    this.forgetEnded();
  }

  /** Everything after the logits: cache, failures, tokens. */
  private complete(lane: StepLane, startedMs: number): void {
    const samplingMs = performance.now();
    const { batch } = lane;
    this.options.visits?.count(batch, lane.model);
    let streamRows = 0;
    let logit = 0;
    for (let s = 0; s < batch.sequences.length; s++) {
      const sequence = batch.sequences[s];
      const first = batch.native.seqRow[s];
      const rows = batch.native.seqRow[s + 1] - first;
      const firstLogit = logit;
      while (logit < batch.native.logitRows && batch.native.logitRow[logit] < first + rows) logit++;
      sequence.inFlight--;
      const { checked } = sequence.draft;
      if (rows - checked === 1) streamRows += rows;
      if (sequence.failure === null) {
        sequence.advance(rows);
        this.reportRouting(sequence);
      }
      sequence.draft.checked = 0;
      if (sequence.ending) {
        if (sequence.inFlight === 0) this.end(sequence);
      } else if (logit > firstLogit) this.readOrFail(sequence, firstLogit, logit - checked + batch.guesses(s), batch.guesses(s));
      if (sequence.failure !== null) continue;
      this.residency.publish(sequence);
      this.residency.shrink(sequence);
    }
    if (this.tracing) this.trace(lane);
    this.forgetEnded();
    this.counters.steps++;
    this.times.add(Activity.sampling, samplingMs);
    this.lastStepEndMs = performance.now();
    if (streamRows === batch.rows) this.drafting?.learn(batch.rows, this.lastStepEndMs - startedMs);
    this.msPerRow = this.msPerRow * 0.8 + ((this.lastStepEndMs - startedMs) / batch.rows) * 0.2;
    // Tokens may wait for those of the next step of a lone worker, which is over soon; not for rows to come back, nor for a prompt.
    const soon = lane.model.runWhole !== null && !this.promptIsNext;
    if (this.output.urgent || !soon || this.lastStepEndMs - this.lastFlushMs >= COALESCE_MS) this.flush();
  }

  private get promptIsNext(): boolean {
    return (this.admits && this.waiting.length > 0) || this.running.some(({ length, scheduled }) => length - scheduled > 1);
  }

  /** Of a sequence that wants it: what its first chunk chose, while most of its prompt can still be computed elsewhere. */
  private reportRouting(sequence: Sequence): void {
    if (!sequence.request.reportRouting || sequence.routingReported) return;
    sequence.routingReported = true;
    if (sequence.computed < sequence.promptLength && !sequence.cancelled)
      this.output.addRouting(routingOf(sequence.request.request, sequence.traffic));
  }

  /** Logits that cannot be read (no number among them) end their own sequence only. */
  private readOrFail(sequence: Sequence, firstLogit: number, endLogit: number, guesses: number): void {
    try {
      this.readout.read(sequence, firstLogit, endLogit, guesses);
    } catch (error) {
      sequence.failure = asFailure(error, 'sampling failed');
      // Later chunks may be in steps of their own, and still write its blocks.
      if (sequence.inFlight === 0) this.end(sequence);
    }
  }

  /** Ends a sequence that will produce nothing more, with its reason. */
  private end(sequence: Sequence): void {
    sequence.finished = true;
    if (sequence.abandoned) return;
    if (sequence.failure !== null) this.output.addError(sequence.request.request, sequence.failure, sequence.traffic);
    else this.output.addEnd(sequence.request.request, Finish.cancelled, 0, sequence.traffic);
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
    this.admits = true;
  }

  /** The kernels refused the batch (corrupt weights, out of memory): every sequence in it fails, the worker goes on. */
  private failBatch({ batch }: StepLane, error: unknown): void {
    const failure = asFailure(error, 'the step failed');
    for (const sequence of batch.sequences) sequence.failure ??= failure;
  }

  private countExperts({ batch, model }: StepLane, layer: number): void {
    const { rows } = batch;
    this.counters.addExperts(layer, model.moe[layer].ids.i32, rows * this.model.shape.topK);
    this.counters.rowsDispatched += rows;
  }

  private trace({ batch, model }: StepLane): void {
    const rows = traceRows(batch, model, this.model.shape.topK);
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
