import { SwitchyardError } from '@switchyard/proto';
import { bounds } from '../bounds.ts';
import { DetailedError } from '../detailed-error.ts';
import { ChatTemplate, type Conversation } from './chat-template.ts';
import { TextTokenizer, tooManyPrivate } from './text-tokenizer.ts';
import { tokenBytes } from './token-bytes.ts';
import type { TokenizerFolder } from './tokenizer-folder.ts';

/** Everything that can be asked to become token ids. */
export type PromptText =
  | { kind: 'conversation'; conversation: Conversation }
  /** `controls`: control tokens in the text are read as such. */
  | { kind: 'text'; text: string; addSpecialTokens: boolean; controls: boolean }
  /** What a client expects of an answer. */
  | { kind: 'prediction'; text: string };

/** The field of a request that the prompt came in. */
export function fieldOf({ kind }: PromptText): 'messages' | 'prompt' | 'prediction' {
  if (kind === 'conversation') return 'messages';
  return kind === 'text' ? 'prompt' : 'prediction';
}

/** Fields of an assistant's message that are what the model itself wrote. */
const modelsWords = ['content', 'thinking', 'reasoning_content', 'reasoning'];

/** What the template engine makes of an object where a template wants text: never what anybody meant. */
const JOINED_OBJECT = '[object Map]';

/** Turns prompts into token ids: the checkpoint's tokenizer and chat template together. */
export class PromptEncoder {
  readonly #longestTokenBytes: number;
  readonly #tokensBeginInTemplate: boolean;
  readonly tokenizer: TextTokenizer;
  readonly template: ChatTemplate | null;

  constructor(folder: TokenizerFolder) {
    this.tokenizer = new TextTokenizer(folder);
    this.template = ChatTemplate.of(folder);
    this.#longestTokenBytes = tokenBytes(folder.tokenizer).longest;
    this.#tokensBeginInTemplate = this.template !== null && this.tokenizer.shield.mayBeginIn(this.template.reading.literals);
  }

  /**
   * @param tokensMax text that cannot have so few tokens is refused before it is tokenised
   * @throws SwitchyardError `invalid_request`; DetailedError `context_length_exceeded`
   */
  encode(prompt: PromptText, tokensMax: number): number[] {
    if (prompt.kind === 'conversation') return this.#encodeConversation(prompt.conversation, tokensMax);
    this.#checkLength(prompt.text, tokensMax, fieldOf(prompt));
    // A control token that it names takes effect only if the model chooses it.
    if (prompt.kind === 'prediction') return this.tokenizer.encodePrompt(prompt.text, false);
    const { text, addSpecialTokens, controls } = prompt;
    return controls ? this.tokenizer.encodePrompt(text, addSpecialTokens) : this.tokenizer.encodeText(text, addSpecialTokens);
  }

  /** No token stands for more bytes than the longest one. */
  #checkLength(text: string, tokensMax: number, field: ReturnType<typeof fieldOf>): void {
    const atLeast = Math.ceil(text.length / this.#longestTokenBytes);
    if (atLeast <= tokensMax) return;
    if (field === 'prediction') throw predictionTooLong(`at least ${atLeast}`, tokensMax);
    throw new DetailedError('context_length_exceeded', `the prompt has at least ${atLeast} tokens; the context has ${tokensMax}`, field, {
      n_prompt_tokens: atLeast,
      n_ctx: tokensMax,
    });
  }

  #encodeConversation(conversation: Conversation, tokensMax: number): number[] {
    if (this.template === null)
      throw new SwitchyardError('invalid_request', 'this model has no chat template: use /v1/completions', { param: 'messages' });
    const { messages, tools, variables } = conversation;
    const texts: string[] = [];
    for (const [field, value] of writtenFields(conversation)) collectTexts(value, texts, 1, field);
    const standIns = this.tokenizer.shield.standIns(texts, this.#tokensBeginInTemplate);
    if (standIns === null) throw tooManyPrivate('messages');
    const shield = (text: string) => standIns.shield(text);
    const rendered = this.template.render({
      ...conversation,
      messages: messages.map((message) => {
        // Roles come from a fixed list; templates build control tokens from them.
        const { role, ...rest } = message;
        const shielded = Object.entries(rest).map(([field, value]) => {
          const lenient = role === 'assistant' && modelsWords.includes(field);
          return [field, mapTexts(value, (text) => standIns.shield(text, lenient))];
        });
        return { role, ...Object.fromEntries(shielded) };
      }),
      tools: tools === null ? null : (mapTexts(tools, shield) as unknown[]),
      variables: mapTexts(variables, shield) as Record<string, unknown>,
    });
    if (rendered.includes(JOINED_OBJECT) && ![...texts, ...this.template.reading.literals].some((text) => text.includes(JOINED_OBJECT)))
      throw new SwitchyardError('invalid_request', 'the chat template joins text with an object of the messages, which it cannot write', {
        param: 'messages',
      });
    this.#checkLength(rendered, tokensMax, 'messages');
    return this.tokenizer.encodeShielded(rendered, standIns, 'messages');
  }
}

/** No answer can be as long as what is expected of it. */
export function predictionTooLong(tokens: string, contextMax: number): SwitchyardError {
  const message = `the prediction has ${tokens} tokens; the context has ${contextMax}`;
  return new DetailedError('context_length_exceeded', message, 'prediction', { n_ctx: contextMax });
}

/** Characters of the prompt, a conversation's about as JSON has them: numbers and brackets are work for a template too. */
export function promptChars(prompt: PromptText): number {
  if (prompt.kind !== 'conversation') return prompt.text.length;
  return writtenFields(prompt.conversation).reduce((sum, [field, value]) => sum + jsonChars(value, 1, field), 0);
}

/** What people wrote of a conversation, by the fields that it came in. */
function writtenFields({ messages, tools, variables }: Conversation): [field: string, value: unknown][] {
  return [
    ['messages', messages],
    ['tools', tools],
    ['chat_template_kwargs', variables],
  ];
}

/** @throws SwitchyardError `invalid_request` naming the field */
export function checkNesting(value: unknown, field: string): void {
  jsonChars(value, 1, field);
}

/** Quotes or brackets of a value, or the comma and colon around it. */
const PUNCTUATION_CHARS = 2;

function jsonChars(value: unknown, depth: number, field: string): number {
  checkDepth(depth, field);
  if (typeof value !== 'object' || value === null) return String(value).length + PUNCTUATION_CHARS;
  let chars = PUNCTUATION_CHARS;
  if (Array.isArray(value)) for (const item of value) chars += jsonChars(item, depth + 1, field);
  else for (const [key, item] of Object.entries(value)) chars += key.length + PUNCTUATION_CHARS + jsonChars(item, depth + 1, field);
  return chars;
}

function collectTexts(value: unknown, into: string[], depth: number, field: string): void {
  checkDepth(depth, field);
  if (typeof value === 'string') into.push(value);
  else if (Array.isArray(value)) for (const item of value) collectTexts(item, into, depth + 1, field);
  else if (typeof value === 'object' && value !== null) {
    for (const [key, item] of Object.entries(value)) {
      into.push(key);
      collectTexts(item, into, depth + 1, field);
    }
  }
}

/** The same value with every string replaced, keys included: they are part of what a client writes. */
function mapTexts(value: unknown, replace: (text: string) => string): unknown {
  if (typeof value === 'string') return replace(value);
  if (Array.isArray(value)) return value.map((item) => mapTexts(item, replace));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [replace(key), mapTexts(item, replace)]));
}

/** @param depth of the field's own value 1 */
function checkDepth(depth: number, field: string): void {
  if (depth > bounds.jsonDepthMax)
    throw new SwitchyardError('invalid_request', `${field} is nested deeper than ${bounds.jsonDepthMax} levels`, { param: field });
}
