import type { Place } from '../membership/membership.ts';
import type { Answer } from './answer.ts';

/** A sequence with a worker. */
export interface Running {
  answer: Answer;
  place: Place;
  /** Tokens of its prompt, until its first token has come. */
  promptTokens: number;
  submittedMs: number;
  /** It goes on elsewhere under another number; what still comes from here is its bill. */
  moved: boolean;
}

/** What one worker has. */
interface WorkerLoad {
  sequences: number;
  /** Of those, in the worker's batch, as far as that can be told. Which ones cannot: a worker may hold some back and take later ones first. */
  batched: number;
  /** Of those, whose first token has not come. */
  unbegun: number;
  /** Of their prompts, not computed. */
  promptTokens: number;
  /** Number of the request for which it was last chosen. */
  lastChosen: number;
  /** When it last got work after none, and last gave tokens; performance.now. */
  busySinceMs: number;
  tokensAtMs: number;
}

/** What each worker has to do, as far as that can be told from here. */
export class WorkerLoads {
  readonly #batchMax: number;
  readonly #beyondBatchMax: number;
  readonly #loads: readonly WorkerLoad[];

  /**
   * @param batchMax sequences in the batch of one worker; what it has beyond them waits there
   * @param beyondBatchMax so many of them at most
   */
  constructor(workers: number, batchMax: number, beyondBatchMax: number) {
    this.#batchMax = batchMax;
    this.#beyondBatchMax = beyondBatchMax;
    const nothing = { sequences: 0, batched: 0, unbegun: 0, promptTokens: 0, lastChosen: 0, busySinceMs: 0, tokensAtMs: 0 };
    this.#loads = Array.from({ length: workers }, () => ({ ...nothing }));
  }

  of(worker: number): Readonly<WorkerLoad> {
    return this.#loads[worker];
  }

  hasRoom(worker: number): boolean {
    const { sequences, batched } = this.#loads[worker];
    return sequences - batched < this.#beyondBatchMax;
  }

  add({ answer, place, promptTokens, submittedMs }: Running): void {
    const load = this.#loads[place.worker];
    load.promptTokens += promptTokens;
    if (promptTokens > 0) load.unbegun++;
    // Where some wait at the worker, it waits behind them.
    const waits = load.batched < load.sequences;
    if (load.sequences++ === 0) load.busySinceMs = submittedMs;
    load.lastChosen = answer.request;
    this.#batch(load, waits ? load.batched : load.sequences);
  }

  remove(entry: Running): void {
    const load = this.#loads[entry.place.worker];
    this.promptDone(entry);
    load.sequences--;
    // Its place is taken by one that waited there, if any did.
    this.#batch(load, Math.min(load.batched, load.sequences));
  }

  gaveTokens(worker: number, nowMs: number): void {
    this.#loads[worker].tokensAtMs = nowMs;
  }

  /** The first token has come, or will not: the worker has computed the prompt, or no longer has to. */
  promptDone(entry: Running): void {
    if (entry.promptTokens === 0) return;
    const load = this.#loads[entry.place.worker];
    load.promptTokens -= entry.promptTokens;
    load.unbegun--;
    entry.promptTokens = 0;
    this.#batch(load, load.batched);
  }

  /** By its own account. That its batch has less than it could, where its cache is full say, holds until more have begun or it says otherwise. */
  saysWaiting(worker: number, waiting: number): void {
    const load = this.#loads[worker];
    this.#batch(load, load.sequences - waiting);
  }

  /** So many are in the batch, or as many as have begun, as far as they fit. */
  #batch(load: WorkerLoad, sequences: number): void {
    load.batched = Math.min(this.#batchMax, Math.max(sequences, load.sequences - load.unbegun));
  }
}
