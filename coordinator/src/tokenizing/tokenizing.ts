import { Worker } from 'node:worker_threads';
import { SwitchyardError } from '@switchyard/proto';
import { bounds } from '../bounds.ts';
import { DetailedError } from '../detailed-error.ts';
import { threadFile } from '../thread-file.ts';
import type { ChatTemplate } from './chat-template.ts';
import { PromptEncoder, type PromptText, promptChars } from './prompt-text.ts';
import { TokenPieces } from './text-stream.ts';
import { tokenBytes } from './token-bytes.ts';
import { readTokenizerFolder } from './tokenizer-folder.ts';
import type { TokenizeJob, TokenizeResult } from './tokenizing-thread.ts';

interface Waiting {
  resolve(ids: number[]): void;
  reject(error: Error): void;
}

/** Text to ids and back. Short texts are encoded on the spot, long ones in a thread, so that streams go on meanwhile. */
export class Tokenizing {
  readonly pieces: TokenPieces;
  readonly specialIds: ReadonlySet<number>;
  readonly template: ChatTemplate | null;
  readonly #dir: string;
  readonly #encoder: PromptEncoder;
  readonly #waiting = new Map<number, Waiting>();
  #thread: Worker | null = null;
  #nextJob = 0;

  /** @throws SwitchyardError `bad_checkpoint` */
  constructor(dir: string) {
    const folder = readTokenizerFolder(dir);
    this.#dir = dir;
    this.#encoder = new PromptEncoder(folder);
    this.template = this.#encoder.template;
    this.specialIds = this.#encoder.tokenizer.specialIds;
    this.pieces = new TokenPieces(tokenBytes(folder.tokenizer));
  }

  /**
   * @param tokensMax text that cannot have so few tokens is refused before it is tokenised; one that is close may still have more
   * @throws SwitchyardError `invalid_request`, `context_length_exceeded`, or `queue_full` when too many long texts wait
   */
  async encode(prompt: PromptText, tokensMax = Number.POSITIVE_INFINITY): Promise<number[]> {
    return promptChars(prompt) <= bounds.inlineTextChars
      ? this.#encoder.encode(prompt, tokensMax)
      : await this.#encodeInThread(prompt, tokensMax);
  }

  async close(): Promise<void> {
    await this.#thread?.terminate();
  }

  #encodeInThread(prompt: PromptText, tokensMax: number): Promise<number[]> {
    if (this.#waiting.size >= bounds.tokenizingQueueMax)
      throw new SwitchyardError(
        'queue_full',
        `${this.#waiting.size} long texts wait to be tokenised; the limit is ${bounds.tokenizingQueueMax}`,
      );
    this.#thread ??= this.#start();
    const id = this.#nextJob++;
    const thread = this.#thread;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      thread.postMessage({ id, prompt, tokensMax } satisfies TokenizeJob);
    });
  }

  #start(): Worker {
    const thread = new Worker(threadFile('tokenizing/tokenizing-thread'), { workerData: { dir: this.#dir } });
    thread.unref();
    thread.on('message', (result: TokenizeResult) => {
      const waiting = this.#waiting.get(result.id);
      this.#waiting.delete(result.id);
      if ('ids' in result) waiting?.resolve(Array.from(result.ids));
      else waiting?.reject(new DetailedError(result.code, result.message, result.param, result.details));
    });
    // Out of memory, say: those who wait are told, and the next long text starts a new thread.
    thread.on('error', (error) => this.#fail(error));
    thread.on('exit', () => {
      if (this.#thread === thread) this.#fail(new Error('the tokenising thread ended'));
    });
    return thread;
  }

  #fail(error: Error): void {
    this.#thread = null;
    const waiting = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const { reject } of waiting) reject(new SwitchyardError('internal', `tokenising failed: ${error.message}`, { cause: error }));
  }
}
