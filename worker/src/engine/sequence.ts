import { PredictedText, type Submit, type SwitchyardError } from '@switchyard/proto';
import type { AwaitedBlock } from '../kv/awaited-block.ts';
import type { BlockPool } from '../kv/block-pool.ts';
import { TokenHistory } from '../sample/token-history.ts';
import { Draft } from './draft.ts';
import type { HitRates } from './hit-rates.ts';
import type { Schedulable } from './schedule.ts';
import { SequenceTraffic } from './sequence-traffic.ts';

const NO_TOKENS = new Int32Array(0);

/** Logprobs of prompt tokens 1 .., entry i of token i + 1; becomes the message's `PromptLogprobs`. */
export interface PromptReading {
  request: number;
  logprob: number[];
  top: { token: number[]; logprob: number[] }[];
}

/** One request on its home worker: its tokens, its place in the KV cache, and what its client still waits for. */
export class Sequence implements Schedulable {
  /** Without what its tokens say, or would as numbers of twice the size. */
  readonly request: Omit<Submit, 'prompt' | 'prediction'>;
  readonly promptLength: number;
  readonly submittedMs = performance.now();
  /** Where the prefix cache may share this sequence's blocks. */
  readonly scope: string;
  readonly ropeVariant: number;
  /** Null unless penalties ask for it. */
  readonly history: TokenHistory | null;
  readonly stopTokens: ReadonlySet<number>;
  private readonly stopList: Int32Array;

  /** The known ones, and behind them guesses. */
  tokens: Int32Array;
  length: number;
  readonly draft: Draft;
  /** Null where its client expects nothing in particular. */
  private readonly predicted: PredictedText | null;
  computed = 0;
  /** Tokens computed or in a running step, and how many running steps have some of them. */
  scheduled = 0;
  inFlight = 0;
  blocks: Int32Array;
  blockCount = 0;
  /** Full blocks already offered to the prefix cache, and the identity of the last of them. */
  publishedBlocks = 0;
  publishedSerial = 0;
  /** Null unless it had better be admitted later: another is computing what it lacks. */
  waitsFor: AwaitedBlock | null = null;
  /** Tokens in the prefix cache then. */
  cachedWhenLookedAt = 0;
  overtaken = 0;
  /** Prompt tokens that the first admission found cached; reported with the first token. */
  cachedTokens = 0;
  /** When a step first took something of it; NaN until then. */
  private startedMs = Number.NaN;
  admittedBefore = false;
  cancelled = false;
  /** Ended, or about to, without anybody who wants to know. */
  abandoned = false;
  finished = false;
  failure: SwitchyardError | null = null;
  readonly traffic = new SequenceTraffic();
  /** What its first chunk chose has been told. */
  routingReported = false;
  /** Positions below it have been traced. */
  tracedTokens = 0;
  /** Filled in while the prompt is computed; null when not wanted, or already sent. */
  promptLogprobs: PromptReading | null;

  private readonly pool: BlockPool;

  constructor({ prompt, prediction, ...request }: Submit, scope: string, ropeVariant: number, pool: BlockPool, hitRates: HitRates) {
    this.request = request;
    this.promptLength = prompt.length;
    this.scope = scope;
    this.ropeVariant = ropeVariant;
    this.pool = pool;
    this.predicted = prediction.length > 0 ? new PredictedText(Int32Array.from(prediction)) : null;
    this.draft = new Draft(hitRates, this.predicted);
    this.tokens = new Int32Array(this.promptLength + Math.min(request.maxTokens, 256));
    this.tokens.set(prompt);
    this.length = this.promptLength;
    this.blocks = new Int32Array(64);
    this.stopList = Int32Array.from(request.stopTokens);
    this.stopTokens = new Set(this.stopList);
    const { repetitionPenalty, presencePenalty, frequencyPenalty } = request.sampling;
    this.history = repetitionPenalty !== 1 || presencePenalty !== 0 || frequencyPenalty !== 0 ? new TokenHistory(prompt) : null;
    this.promptLogprobs = request.promptLogprobs ? { request: request.request, logprob: [], top: [] } : null;
  }

  /** A step is about to compute something of it. */
  start(): void {
    if (Number.isNaN(this.startedMs)) this.startedMs = performance.now();
  }

  /** Microseconds from its submit to its first step. */
  get queuedUs(): number {
    return Math.min(2 ** 32 - 1, Math.round((this.startedMs - this.submittedMs) * 1000));
  }

  get produced(): number {
    return this.length - this.promptLength;
  }

  /** Of one that runs: as far as was known when it was admitted. */
  get likelyCached(): number {
    return Math.max(this.cachedWhenLookedAt, this.waitsFor?.tokensThere ?? 0);
  }

  get awaitsPrefix(): boolean {
    return this.waitsFor?.isToCome ?? false;
  }

  get everyLogit(): boolean {
    return this.promptLogprobs !== null;
  }

  get exclusiveBlocks(): number {
    let count = 0;
    for (let i = 0; i < this.blockCount; i++) if (this.pool.isExclusive(this.blocks[i])) count++;
    return count;
  }

  /** Tokens that may not be produced yet. */
  get maskedTokens(): Int32Array {
    return this.produced < this.request.minTokens ? this.stopList : NO_TOKENS;
  }

  /** Guesses up to `count` next tokens. */
  guess(count: number): void {
    while (this.length + count > this.tokens.length) this.tokens = grown(this.tokens);
    this.draft.make(this.tokens, this.length, count);
  }

  /** Adds the token that was chosen. True: it had been guessed, and so may the next. */
  append(token: number): boolean {
    if (this.length === this.tokens.length) this.tokens = grown(this.tokens);
    const guessed = this.draft.guesses > 0 && this.tokens[this.length] === token;
    this.draft.judge(guessed);
    this.tokens[this.length++] = token;
    this.history?.add(token);
    this.predicted?.push(token);
    return guessed;
  }

  /** A step has computed `rows` more of it, guesses included: those count once they are found right. */
  advance(rows: number): void {
    this.computed += rows - this.draft.checked;
    this.scheduled -= this.draft.checked;
  }

  /** The token that was just added is what the running step had computed in its place. */
  keepGuess(): void {
    this.computed++;
    this.scheduled++;
  }

  addBlock(block: number): void {
    if (this.blockCount === this.blocks.length) this.blocks = grown(this.blocks);
    this.blocks[this.blockCount++] = block;
  }

  get ending(): boolean {
    return this.cancelled || this.failure !== null;
  }

  get proposed(): number {
    return this.draft.proposed;
  }

  /** Lets go of all cache. What was computed is computed again when the sequence is next admitted, to the same bits. */
  releaseBlocks(): void {
    // Last block first: a chain of cached blocks is worth nothing without its beginning, so its end is the first to be overwritten.
    while (this.blockCount > 0) this.pool.release(this.blocks[--this.blockCount]);
    this.computed = 0;
    this.scheduled = 0;
    this.publishedBlocks = 0;
    this.publishedSerial = 0;
  }
}

function grown(array: Int32Array): Int32Array {
  const larger = new Int32Array(array.length * 2 + 16);
  larger.set(array);
  return larger;
}
