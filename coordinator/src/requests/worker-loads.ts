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
  /** In the worker's batch, as far as that can be told. */
  batched: boolean;
}

/** What one worker has. */
interface WorkerLoad {
  sequences: number;
  /** Of those, in the worker's batch. */
  batched: number;
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
    const nothing = { sequences: 0, batched: 0, promptTokens: 0, lastChosen: 0, busySinceMs: 0, tokensAtMs: 0 };
    this.#loads = Array.from({ length: workers }, () => ({ ...nothing }));
  }

  of(worker: number): Readonly<WorkerLoad> {
    return this.#loads[worker];
  }

  hasRoom(worker: number): boolean {
    const { sequences, batched } = this.#loads[worker];
    return sequences - batched < this.#beyondBatchMax;
  }

  batchIsFull(worker: number): boolean {
    return this.#loads[worker].batched >= this.#batchMax;
  }

  add({ answer, place, promptTokens, submittedMs }: Running): void {
    const load = this.#loads[place.worker];
    load.promptTokens += promptTokens;
    if (load.sequences++ === 0) load.busySinceMs = submittedMs;
    load.lastChosen = answer.request;
  }

  remove(entry: Running): void {
    const load = this.#loads[entry.place.worker];
    this.promptDone(entry);
    load.sequences--;
    if (entry.batched) load.batched--;
  }

  gaveTokens(worker: number, nowMs: number): void {
    this.#loads[worker].tokensAtMs = nowMs;
  }

  /** The first token has come, or will not: the worker has computed the prompt, or no longer has to. */
  promptDone(entry: Running): void {
    this.#loads[entry.place.worker].promptTokens -= entry.promptTokens;
    entry.promptTokens = 0;
  }

  setBatched(entry: Running, batched: boolean): void {
    if (entry.batched === batched) return;
    entry.batched = batched;
    this.#loads[entry.place.worker].batched += batched ? 1 : -1;
  }

  /** Workers take sequences into their batch in order, as many as fit. @param running of all workers, in the order in which they were submitted */
  fillBatch(place: Place, running: Iterable<Running>): void {
    const { worker } = place;
    const { batched, sequences } = this.#loads[worker];
    if (batched >= Math.min(this.#batchMax, sequences)) return;
    for (const entry of running) {
      if (this.batchIsFull(worker)) return;
      if (entry.place === place) this.setBatched(entry, true);
    }
  }
}
