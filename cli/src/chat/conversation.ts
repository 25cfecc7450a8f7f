import type { ApiClient } from '../api/client.ts';
import { countOf } from '../api/json-answer.ts';

export interface Message {
  role: 'system' | 'user' | 'assistant';
  content: string;
}

export interface ChatSettings {
  model: string;
  temperature: number;
  topP: number;
  maxTokens: number | null;
  seed: number | null;
}

export interface Answer {
  text: string;
  finishReason: string | null;
  promptTokens: number | null;
  outputTokens: number | null;
}

interface ChatChunk {
  choices?: { delta?: { content?: unknown } | null; finish_reason?: string | null }[];
  usage?: { prompt_tokens?: unknown; completion_tokens?: unknown } | null;
}

/**
 * The messages of one conversation, as the server sees them. A turn enters the history only when it has an answer: a refused or failed question leaves it as
 * it was, and a cancelled answer stays as far as it came.
 */
export class Conversation {
  readonly #client: ApiClient;
  readonly #settings: ChatSettings;
  #system: string | null;
  #turns: Message[] = [];

  constructor(client: ApiClient, settings: ChatSettings, system: string | null) {
    this.#client = client;
    this.#settings = settings;
    this.#system = system;
  }

  get messages(): Message[] {
    return this.#system === null ? [...this.#turns] : [{ role: 'system', content: this.#system }, ...this.#turns];
  }

  /** Sets or, with null, removes the system message. The turns stay. */
  setSystem(text: string | null): void {
    this.#system = text;
  }

  forget(): void {
    this.#turns = [];
  }

  /** Asks and streams the answer's text to `onText`. An aborted signal ends the answer early without an error. */
  async ask(question: string, onText: (text: string) => void, signal: AbortSignal): Promise<Answer> {
    const user: Message = { role: 'user', content: question };
    const { model, temperature, topP, maxTokens, seed } = this.#settings;
    const answer: Answer = { text: '', finishReason: null, promptTokens: null, outputTokens: null };
    const body = {
      model,
      messages: [...this.messages, user],
      temperature,
      top_p: topP,
      ...(maxTokens === null ? {} : { max_tokens: maxTokens }),
      ...(seed === null ? {} : { seed }),
      stream: true,
      stream_options: { include_usage: true },
    };
    const onData = (chunk: ChatChunk) => {
      const choice = chunk.choices?.[0];
      const piece = choice?.delta?.content;
      if (typeof piece === 'string' && piece !== '') {
        answer.text += piece;
        onText(piece);
      }
      if (choice?.finish_reason) answer.finishReason = choice.finish_reason;
      if (chunk.usage) {
        answer.promptTokens = countOf(chunk.usage.prompt_tokens);
        answer.outputTokens = countOf(chunk.usage.completion_tokens);
      }
    };
    try {
      await this.#client.stream('/v1/chat/completions', body, { onData, signal });
    } catch (error) {
      if (!signal.aborted) throw error;
      answer.finishReason = 'cancelled';
    }
    if (answer.text !== '') this.#turns.push(user, { role: 'assistant', content: answer.text });
    return answer;
  }
}
