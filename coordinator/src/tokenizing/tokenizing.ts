import { bounds } from '../bounds.ts';
import type { ChatTemplate } from './chat-template.ts';
import { PromptEncoder, type PromptText, promptChars } from './prompt-text.ts';
import { TokenPieces } from './text-stream.ts';
import { TextThread } from './text-thread.ts';
import { tokenBytes } from './token-bytes.ts';
import { readTokenizerFolder } from './tokenizer-folder.ts';

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

  /**
   * @param tokensMax text that cannot have so few tokens is refused before it is tokenised; one that is close may still have more
   * @throws SwitchyardError `invalid_request`, `context_length_exceeded`, or `queue_full` when too many long texts wait
   */
  async encode(prompt: PromptText, tokensMax = Number.POSITIVE_INFINITY): Promise<number[]> {
    const chars = promptChars(prompt);
    return chars <= bounds.inlineTextChars ? this.#encoder.encode(prompt, tokensMax) : await this.#thread.encode(prompt, chars, tokensMax);
  }

  async close(): Promise<void> {
    await this.#thread.close();
  }
}
