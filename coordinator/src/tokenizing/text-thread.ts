import type { Worker } from 'node:worker_threads';
import { SwitchyardError } from '@switchyard/proto';
import { bounds } from '../bounds.ts';
import { DetailedError } from '../detailed-error.ts';
import { startThread } from '../thread.ts';
import { fieldOf, type PromptText, promptChars } from './prompt-text.ts';
import type { TokenizeJob, TokenizeResult } from './tokenizing-thread.ts';
import { takeNext, type WaitingText } from './waiting-order.ts';

interface Waiting extends WaitingText {
  job: TokenizeJob;
  resolve(ids: Int32Array[]): void;
  reject(error: Error): void;
}

/** What one request wants tokenised, in one go. */
interface TextJob {
  prompts: readonly PromptText[];
  /** Of all prompts together. */
  chars: number;
  tokensMax: number;
  /** Aborts once nobody wants the ids any more: a job that still waits is dropped. */
  unwanted?: AbortSignal | undefined;
}

/**
 * Tokenises long texts in a thread of its own, short ones first within limits. A text that takes too long is given up together with the thread, which is started
 * anew: a few megabytes without a space can take minutes.
 */
export class TextThread {
  readonly #dir: string;
  readonly #msMax: number;
  /** As they came. */
  readonly #waiting: Waiting[] = [];
  #running: Waiting | null = null;
  #deadline: NodeJS.Timeout | null = null;
  #thread: Worker | null = null;
  #closed = false;

  /** @param msMax what one text may take */
  constructor(dir: string, msMax: number = bounds.tokenizingMsMax) {
    this.#dir = dir;
    this.#msMax = msMax;
  }

  /** Reads the tokenizer before anyone waits for it. */
  start(): void {
    this.#thread ??= this.#create();
  }

  /** @throws SwitchyardError `queue_full`, `cancelled`, `invalid_request` when it takes too long, and what tokenising throws */
  encode({ prompts, chars, tokensMax, unwanted }: TextJob): Promise<Int32Array[]> {
    if (this.#waiting.length >= bounds.tokenizingQueueMax)
      throw new SwitchyardError(
        'queue_full',
        `${this.#waiting.length} texts wait to be tokenised; the limit is ${bounds.tokenizingQueueMax}`,
      );
    if (unwanted?.aborted) throw nobodyWaits();
    let drop = () => {};
    const ids = new Promise<Int32Array[]>((resolve, reject) => {
      const waiting: Waiting = { job: { prompts, tokensMax }, chars, overtakenChars: 0, resolve, reject };
      this.#waiting.push(waiting);
      drop = () => this.#drop(waiting);
      unwanted?.addEventListener('abort', drop);
      this.#next();
    });
    // The signal lives as long as the answer: it must not keep the text.
    return ids.finally(() => unwanted?.removeEventListener('abort', drop));
  }

  async close(): Promise<void> {
    this.#closed = true;
    const waiting = [...(this.#running === null ? [] : [this.#running]), ...this.#waiting.splice(0)];
    this.#finish();
    for (const { reject } of waiting) reject(new SwitchyardError('shutting_down', 'the server is shutting down'));
    await this.#thread?.terminate();
  }

  #next(): void {
    if (this.#running !== null) return;
    const next = takeNext(this.#waiting, bounds.tokenizingOvertakingMax);
    if (next === null) return;
    this.start();
    this.#running = next;
    this.#deadline = setTimeout(() => this.#giveUp(), this.#msMax);
    this.#thread!.postMessage(next.job);
  }

  /** One that runs already is let run: ending it would cost the thread. */
  #drop(waiting: Waiting): void {
    const at = this.#waiting.indexOf(waiting);
    if (at < 0) return;
    this.#waiting.splice(at, 1);
    waiting.reject(nobodyWaits());
  }

  #receive(thread: Worker, result: TokenizeResult): void {
    // A text that was given up may have been done just then: its ids are on their way, and another text is what runs now.
    if (this.#thread !== thread) return;
    const running = this.#finish();
    if ('ids' in result) running?.resolve(result.ids);
    else running?.reject(new DetailedError(result.code, result.message, result.param, result.details));
    this.#next();
  }

  #giveUp(): void {
    const running = this.#finish();
    void this.#thread?.terminate();
    this.#thread = null;
    running?.reject(
      new SwitchyardError('invalid_request', `the text of ${running.chars} characters takes longer than ${this.#msMax} ms to tokenise`, {
        param: fieldOf(longestOf(running.job.prompts)),
      }),
    );
    this.#next();
  }

  /** Out of memory, say: whoever was served is told, the next one gets a new thread. */
  #died(thread: Worker, error: Error): void {
    if (this.#closed || this.#thread !== thread) return;
    this.#thread = null;
    this.#finish()?.reject(new SwitchyardError('internal', `tokenising failed: ${error.message}`, { cause: error }));
    this.#next();
  }

  #finish(): Waiting | null {
    const running = this.#running;
    this.#running = null;
    if (this.#deadline !== null) clearTimeout(this.#deadline);
    this.#deadline = null;
    return running;
  }

  #create(): Worker {
    const thread = startThread('tokenizing/tokenizing-thread', { dir: this.#dir });
    thread.on('message', (result: TokenizeResult) => this.#receive(thread, result));
    thread.on('error', (error) => this.#died(thread, error));
    thread.on('exit', () => this.#died(thread, new Error('its thread ended')));
    return thread;
  }
}

function nobodyWaits(): SwitchyardError {
  return new SwitchyardError('cancelled', 'the client has gone');
}

function longestOf(prompts: readonly PromptText[]): PromptText {
  return prompts.reduce((longest, prompt) => (promptChars(prompt) > promptChars(longest) ? prompt : longest));
}
