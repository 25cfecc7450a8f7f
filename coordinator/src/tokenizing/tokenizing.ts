import { bounds } from '../bounds.ts';
import type { ChatTemplate } from './chat-template.ts';
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

/** Text to ids and back. Short texts are encoded on the spot, long ones in a thread, so that streams go on meanwhile. */
export class Tokenizing {
  readonly pieces: TokenPieces;
  readonly specialIds: ReadonlySet<number>;
  readonly template: ChatTemplate | null;
  readonly #encoder: PromptEncoder;
  readonly #thread: TextThread;

  /** @throws SwitchyardError `bad_checkpoint` */
  constructor(dir: string) {
    const folder = readTokenizerFolder(dir);
    this.#encoder = new PromptEncoder(folder);
    this.#thread = new TextThread(dir);
    this.template = this.#encoder.template;
    this.specialIds = this.#encoder.tokenizer.specialIds;
    this.pieces = new TokenPieces(tokenBytes(folder.tokenizer));
  }

  start(): void {
    this.#thread.start();
  }

  /** `encodeAll` of one prompt. */
  async encode(prompt: PromptText, options: EncodeOptions = {}): Promise<number[]> {
    return (await this.encodeAll([prompt], options))[0];
  }

  /**
   * All prompts of one request: what they have together decides where, for many short texts keep the main thread as long as one long text.
   *
   * @throws SwitchyardError `invalid_request`, `context_length_exceeded`, `queue_full` when too many long texts wait, or `cancelled`
   */
  async encodeAll(
    prompts: readonly PromptText[],
    { tokensMax = Number.POSITIVE_INFINITY, unwanted }: EncodeOptions = {},
  ): Promise<number[][]> {
    const chars = prompts.reduce((sum, prompt) => sum + promptChars(prompt), 0);
    if (chars <= bounds.inlineTextChars) return prompts.map((prompt) => this.#encoder.encode(prompt, tokensMax));
    return await this.#thread.encode({ prompts, chars, tokensMax, unwanted });
  }

  async close(): Promise<void> {
    await this.#thread.close();
  }
}
