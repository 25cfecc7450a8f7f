import { Tokenizer } from '@huggingface/tokenizers';
import { SwitchyardError } from '@switchyard/proto';
import { ControlShield, type StandIns } from './control-shield.ts';
import { postProcessorOf } from './post-processor.ts';
import type { TokenizerFolder } from './tokenizer-folder.ts';

/**
 * Text to token ids, with the control over control tokens that the tokenizer itself does not give: shielded text (see control-shield.ts) goes through the same
 * splitting, normalising and merging as any other, and is never matched as an added token.
 */
export class TextTokenizer {
  readonly shield: ControlShield;
  /** Ids of tokens marked `special`: those that are left out of generated text. */
  readonly specialIds: ReadonlySet<number>;
  readonly #tokenizer: Tokenizer;
  readonly #controlIds: ReadonlySet<number>;
  readonly #controls: RegExp | null;
  /** Control tokens that go around every text: a beginning-of-sequence token, say. */
  readonly #controlsAround: number;
  /** Set while shielded text is encoded. */
  #standIns: StandIns | null = null;

  /** @throws SwitchyardError `bad_checkpoint` naming the file */
  constructor(folder: TokenizerFolder) {
    const { file, tokenizer, config } = folder;
    const added = tokenizer.added_tokens;
    const controls = new Set(added.filter((token) => token.special || token.content.trim() !== ''));
    this.shield = new ControlShield(added);
    this.specialIds = new Set(added.filter((token) => token.special).map((token) => token.id));
    this.#controlIds = new Set([...controls].map((token) => token.id));
    this.#controls = unionOf([...controls].map((token) => token.content));
    // Control tokens are looked for in the text as it stands, before anything normalises it: only there are stand-ins in place.
    const asWritten = {
      ...tokenizer,
      added_tokens: added.map((token) => (controls.has(token) ? { ...token, normalized: false } : token)),
      post_processor: postProcessorOf(folder),
    };
    try {
      this.#tokenizer = new Tokenizer(asWritten, { clean_up_tokenization_spaces: false, ...config });
      this.#restoreBeforePreTokenizer();
      this.#controlsAround = countIn(this.#tokenizer.encode('', { add_special_tokens: true }).ids, this.#controlIds);
    } catch (error) {
      throw new SwitchyardError('bad_checkpoint', `${file} is not a tokenizer: ${(error as Error).message}`, { cause: error });
    }
  }

  /** A prompt as its author wrote it: control tokens are read, and the tokens that the model wants around every text are added. */
  encodePrompt(text: string, addSpecialTokens: boolean): number[] {
    return text === '' && !addSpecialTokens ? [] : this.#tokenizer.encode(text, { add_special_tokens: addSpecialTokens }).ids;
  }

  /** Text that is nothing but text. */
  encodeText(text: string, addSpecialTokens: boolean): number[] {
    const standIns = this.shield.standIns([text], false);
    if (standIns === null) throw tooManyPrivate('prompt');
    return this.encodeShielded(standIns.shield(text), standIns, 'prompt', addSpecialTokens);
  }

  /**
   * A rendered conversation: control tokens of the template are read, those spelled by shielded text are not.
   *
   * @param field of the request that the text came in
   * @throws SwitchyardError `invalid_request` when the vocabulary cannot spell the text without control tokens
   */
  encodeShielded(text: string, standIns: StandIns, field: 'messages' | 'prompt', addSpecialTokens = false): number[] {
    if (text === '' && !addSpecialTokens) return [];
    this.#standIns = standIns;
    try {
      const { ids } = this.#tokenizer.encode(text, { add_special_tokens: addSpecialTokens });
      // A model whose own merges lead to a control token would read one where none was matched.
      if (countIn(ids, this.#controlIds) > this.#countControls(text) + (addSpecialTokens ? this.#controlsAround : 0))
        throw new SwitchyardError('invalid_request', 'the text spells a control token that this tokenizer cannot write as text', {
          param: field,
        });
      return ids;
    } finally {
      this.#standIns = null;
    }
  }

  #countControls(text: string): number {
    return this.#controls === null ? 0 : (text.match(this.#controls)?.length ?? 0);
  }

  #restoreBeforePreTokenizer(): void {
    type PreTokenize = (text: string, options?: unknown) => string[];
    const inner = this.#tokenizer.pre_tokenizer as PreTokenize | null;
    const restored: PreTokenize = (text, options) => {
      const plain = this.#standIns === null ? text : this.#standIns.restore(text);
      return inner === null ? [plain] : inner(plain, options);
    };
    this.#tokenizer.pre_tokenizer = restored as unknown as Tokenizer['pre_tokenizer'];
  }
}

export function tooManyPrivate(field: 'messages' | 'prompt'): SwitchyardError {
  return new SwitchyardError('invalid_request', 'the text uses every character of the Unicode private use area', { param: field });
}

function countIn(ids: readonly number[], set: ReadonlySet<number>): number {
  let count = 0;
  for (const id of ids) if (set.has(id)) count++;
  return count;
}

/** Longest first: at one place the longest token wins. */
function unionOf(contents: readonly string[]): RegExp | null {
  if (contents.length === 0) return null;
  const sorted = [...contents].sort((a, b) => b.length - a.length);
  return new RegExp(sorted.map((content) => content.replace(/[\\^$.*+?()[\]{}|/-]/g, '\\$&')).join('|'), 'g');
}
