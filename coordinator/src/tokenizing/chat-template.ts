import { Template } from '@huggingface/jinja';
import { SwitchyardError } from '@switchyard/proto';
import { tokenText } from './post-processor.ts';
import { type TemplateReading, templateReading } from './template-reading.ts';
import type { TokenizerConfig, TokenizerFolder } from './tokenizer-folder.ts';

/** A message as templates see it. */
export interface TemplateMessage {
  role: string;
  content?: string | null;
  [key: string]: unknown;
}

export interface Conversation {
  messages: TemplateMessage[];
  tools: unknown[] | null;
  addGenerationPrompt: boolean;
  /** Further variables that the client sets for the template. */
  variables: Record<string, unknown>;
}

/** The checkpoint's chat template. */
export class ChatTemplate {
  readonly supportsTools: boolean;
  /** Whether the template tells a developer from the system. */
  readonly knowsDeveloper: boolean;
  readonly takesReasoningEffort: boolean;
  readonly reading: TemplateReading;
  readonly #plain: Template;
  readonly #withTools: Template;
  readonly #tokens: Record<string, string>;

  /** @throws SwitchyardError `bad_checkpoint` when a template does not parse. */
  constructor(source: string, toolSource: string | null, config: TokenizerConfig) {
    this.supportsTools = toolSource !== null || /\btools\b/.test(source);
    this.knowsDeveloper = /\bdeveloper\b/.test(source);
    this.takesReasoningEffort = [source, toolSource].some((text) => text !== null && /\breasoning_effort\b/.test(text));
    this.#plain = parse(source);
    this.#withTools = toolSource === null ? this.#plain : parse(toolSource);
    this.#tokens = namedTokens(config);
    this.reading = templateReading([this.#plain.parsed, this.#withTools.parsed]);
  }

  static of(folder: TokenizerFolder): ChatTemplate | null {
    return folder.chatTemplate === null ? null : new ChatTemplate(folder.chatTemplate, folder.toolTemplate, folder.config);
  }

  /** @throws SwitchyardError `invalid_request` with what the template says against the conversation. */
  render({ messages, tools, addGenerationPrompt, variables }: Conversation): string {
    const template = tools === null ? this.#plain : this.#withTools;
    try {
      return template.render({
        ...this.#tokens,
        // As transformers has it, and so as templates expect it: what there is none of is none, not undefined.
        tools: null,
        documents: null,
        ...variables,
        messages,
        add_generation_prompt: addGenerationPrompt,
        ...(tools === null ? {} : { tools }),
      });
    } catch (error) {
      throw new SwitchyardError('invalid_request', `the chat template refuses the messages: ${(error as Error).message}`, {
        param: 'messages',
        cause: error,
      });
    }
  }
}

function parse(source: string): Template {
  try {
    return new Template(source);
  } catch (error) {
    throw new SwitchyardError('bad_checkpoint', `the chat template does not parse: ${(error as Error).message}`, { cause: error });
  }
}

/** bos_token, eos_token, …: a string, or an object with its content. */
function namedTokens(config: TokenizerConfig): Record<string, string> {
  const tokens: Record<string, string> = {};
  for (const [name, value] of Object.entries(config)) {
    if (!name.endsWith('_token')) continue;
    const content = tokenText(value);
    if (content !== null) tokens[name] = content;
  }
  return tokens;
}
