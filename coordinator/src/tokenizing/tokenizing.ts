import { bounds } from '../bounds.ts';
import type { ChatTemplate } from './chat-template.ts';
import { Deadline } from './deadline.ts';
import { PromptEncoder, type PromptText, promptChars } from './prompt-text.ts';
import { TokenPieces } from './text-stream.ts';
import { TextThread } from './text-thread.ts';
import { tokenBytes } from './token-bytes.ts';
import { readTokenizerFolder } from './tokenizer-folder.ts';

export interface EncodeOptions {
  /** Text that cannot have so few tokens is refused before it is tokenised; one that is close may still have more. */
  tokensMax?: number;
  /** Aborts once nobody wants the ids any more. */
  unwanted?: AbortSignal;
}

/**
 * Text to ids and back. Short texts are encoded on the spot, long ones in a thread, so that streams go on meanwhile. Both have a deadline: how long a text takes is up
 * to the checkpoint.
 */
export class Tokenizing {
  readonly pieces: TokenPieces;
  readonly specialIds: ReadonlySet<number>;
  readonly template: ChatTemplate | null;
  readonly #dir: string;
  /** Null once it has been ended twice in the middle of its work: all texts go to the thread then. */
  #encoder: PromptEncoder | null;
  #endedBefore = false;
  readonly #deadline = new Deadline(bounds.inlineTextMsMax);
  readonly #onSlow: (what: string) => void;
  readonly #thread: TextThread;

  /**
   * @param onSlow told once, when the checkpoint takes too long with a short text
   * @throws SwitchyardError `bad_checkpoint`
   */
  constructor(dir: string, onSlow: (what: string) => void = () => {}) {
    this.#dir = dir;
    this.#onSlow = onSlow;
    const folder = readTokenizerFolder(dir);
    const encoder = new PromptEncoder(folder);
    this.#encoder = encoder;
    this.#thread = new TextThread(dir);
    this.template = encoder.template;
    this.specialIds = encoder.tokenizer.specialIds;
    this.pieces = new TokenPieces(tokenBytes(folder.tokenizer));
  }

  start(): void {
    this.#thread.start();
  }

  /** `encodeAll` of one prompt. */
  async encode(prompt: PromptText, options: EncodeOptions = {}): Promise<Int32Array> {
    return (await this.encodeAll([prompt], options))[0];
  }

  /**
   * All prompts of one request: what they have together decides where, for many short texts keep the main thread as long as one long text.
   *
   * @throws SwitchyardError `invalid_request`, `context_length_exceeded`, `queue_full` when too many texts wait, or `cancelled`
   */
  async encodeAll(
    prompts: readonly PromptText[],
    { tokensMax = Number.POSITIVE_INFINITY, unwanted }: EncodeOptions = {},
  ): Promise<Int32Array[]> {
    const chars = prompts.reduce((sum, prompt) => sum + promptChars(prompt), 0);
    return (
      (chars <= bounds.inlineTextChars ? this.#encodeHere(prompts, chars, tokensMax) : null) ??
      (await this.#thread.encode({ prompts, chars, tokensMax, unwanted }))
    );
  }

  /** Null where it takes too long, or did before. */
  #encodeHere(prompts: readonly PromptText[], chars: number, tokensMax: number): Int32Array[] | null {
    const encoder = this.#encoder;
    if (encoder === null) return null;
    const ended = this.#deadline.run(() => prompts.map((prompt) => Int32Array.from(encoder.encode(prompt, tokensMax))));
    if (ended !== null) return ended.value;
    // What was ended may be half done. Once it may have been the machine that stood still, and not the checkpoint's doing.
    this.#encoder = this.#endedBefore ? null : new PromptEncoder(readTokenizerFolder(this.#dir));
    if (!this.#endedBefore) {
      this.#endedBefore = true;
      return null;
    }
    this.#onSlow(
      `the checkpoint's tokenizer or chat template has taken longer than ${bounds.inlineTextMsMax} ms twice, now for ${chars} characters; all texts go to its thread`,
    );
    return null;
  }

  async close(): Promise<void> {
    await this.#thread.close();
  }
}
