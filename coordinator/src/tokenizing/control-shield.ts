/**
 * Keeps text that people wrote from being read as control tokens.
 *
 * A chat template turns a conversation into one string in which control tokens are written out, and the tokenizer finds them by their spelling. What a person
 * wrote must not be found. So every place where their text spells a control token, or begins one at its end, where other text may complete it, gets a stand-in
 * for its first character before the template is rendered; the tokenizer looks for control tokens in the string with stand-ins, and puts the characters back
 * afterwards (see text-tokenizer.ts). Templates see ordinary text unchanged, so that trimming, splitting and comparing work as ever.
 *
 * A token can also begin in the template itself, when that puts it together from parts ('<|' + name + '|>'). Only for such templates, which are told by their
 * literals, text that could be the middle or the end of a token gets a stand-in too: it may be a word that the template compares with.
 */
export class ControlShield {
  readonly #strict: Spelling;
  readonly #lenient: Spelling;

  /** @param tokens added tokens of the tokenizer. Those made of white space are text like any other. */
  constructor(tokens: readonly { content: string; special: boolean }[]) {
    const markup = tokens.filter((token) => token.special || token.content.trim() !== '');
    this.#strict = new Spelling(markup.map((token) => token.content));
    this.#lenient = new Spelling(markup.filter((token) => token.special).map((token) => token.content));
  }

  /** Whether control tokens may begin in one of the literals of a template and go on in what follows. */
  mayBeginIn(literals: Iterable<string>): boolean {
    for (const literal of literals) if (this.#strict.beginsAtEndOf(literal)) return true;
    return false;
  }

  /**
   * Stand-ins for one request.
   *
   * @param texts everything in the request that people wrote: no stand-in may occur in it
   * @param inTemplate control tokens may begin in the template
   * @returns null when the texts use every possible stand-in
   */
  standIns(texts: Iterable<string>, inTemplate: boolean): StandIns | null {
    const firsts = [...new Set([...this.#strict.firsts, ...this.#lenient.firsts])];
    const taken = new Set<string>();
    for (const text of texts) for (const [char] of text.matchAll(ANY_CANDIDATE)) taken.add(char);
    const free = CANDIDATES.filter((char) => !taken.has(char));
    if (free.length < firsts.length) return null;
    const pairs = firsts.map((char, i): [string, string] => [char, free[i]]);
    return new StandIns(this.#strict, this.#lenient, pairs, inTemplate);
  }
}

/** Noncharacters first, which no text should carry, then the private use area. All are one UTF-16 unit, no white space, and survive JSON as they are. */
const CANDIDATES = [...characters(0xfdd0, 0xfdef), ...characters(0xe000, 0xf8ff)];
const ANY_CANDIDATE = /[\ufdd0-\ufdef\ue000-\uf8ff]/g;

function characters(first: number, last: number): string[] {
  return Array.from({ length: last - first + 1 }, (_, i) => String.fromCharCode(first + i));
}

export class StandIns {
  readonly #strict: Spelling;
  readonly #lenient: Spelling;
  readonly #standInOf: Map<string, string>;
  readonly #charOf: Map<string, string>;
  readonly #pattern: RegExp | null;
  readonly #inTemplate: boolean;

  constructor(strict: Spelling, lenient: Spelling, pairs: readonly [char: string, standIn: string][], inTemplate: boolean) {
    this.#inTemplate = inTemplate;
    this.#strict = strict;
    this.#lenient = lenient;
    this.#standInOf = new Map(pairs);
    this.#charOf = new Map(pairs.map(([char, standIn]) => [standIn, char]));
    this.#pattern = pairs.length === 0 ? null : new RegExp(`[${pairs.map(([, standIn]) => standIn).join('')}]`, 'g');
  }

  /**
   * @param lenient only tokens marked `special` are kept out: in what an assistant said before, markup like a tool call is what the model itself wrote
   */
  shield(text: string, lenient = false): string {
    const places = (lenient ? this.#lenient : this.#strict).places(text, this.#inTemplate);
    if (places.length === 0) return text;
    let shielded = '';
    let from = 0;
    for (const at of places) {
      shielded += text.slice(from, at) + this.#standInOf.get(text[at]);
      from = at + 1;
    }
    return shielded + text.slice(from);
  }

  /** Puts the characters back. */
  restore(text: string): string {
    return this.#pattern === null ? text : text.replace(this.#pattern, (standIn) => this.#charOf.get(standIn)!);
  }
}

/** Where a text spells one of a set of tokens, wholly or, at its ends, in part. */
class Spelling {
  readonly firsts: ReadonlySet<string>;
  readonly #tokens: readonly string[];
  readonly #whole: RegExp | null;
  readonly #beginnings = new Set<string>();
  readonly #endings = new Set<string>();
  readonly #longest: number;

  constructor(contents: readonly string[]) {
    this.#tokens = [...new Set(contents)].filter((token) => token !== '').sort();
    this.#longest = Math.max(0, ...this.#tokens.map((token) => token.length));
    this.#whole = this.#tokens.length === 0 ? null : new RegExp(this.#tokens.map(escaped).join('|'), 'g');
    for (const token of this.#tokens) {
      for (let i = 1; i < token.length; i++) {
        this.#beginnings.add(token.slice(0, i));
        this.#endings.add(token.slice(i));
      }
    }
    // A piece of a token may begin with any of its characters.
    this.firsts = new Set(this.#tokens.flatMap((token) => token.split('')));
  }

  beginsAtEndOf(text: string): boolean {
    for (let length = Math.min(this.#longest - 1, text.length); length > 0; length--)
      if (this.#beginnings.has(text.slice(-length))) return true;
    return false;
  }

  /**
   * @param begun a token may have begun before the text
   * @returns ascending positions whose character must be replaced
   */
  places(text: string, begun: boolean): number[] {
    if (this.#whole === null || text === '') return [];
    const places = new Set<number>();
    this.#whole.lastIndex = 0;
    for (let match = this.#whole.exec(text); match !== null; match = this.#whole.exec(text)) {
      places.add(match.index);
      // Tokens may overlap: the next one can begin at the next character.
      this.#whole.lastIndex = match.index + 1;
    }
    const reach = Math.min(this.#longest - 1, text.length);
    for (let length = 1; length <= reach; length++) {
      if (this.#beginnings.has(text.slice(-length))) places.add(text.length - length);
      if (begun && this.#endings.has(text.slice(0, length))) places.add(0);
    }
    if (begun && text.length < this.#longest && this.#tokens.some((token) => token.includes(text))) places.add(0);
    return [...places].sort((a, b) => a - b);
  }
}

function escaped(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|/-]/g, '\\$&');
}
