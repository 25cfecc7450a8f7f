import type { FinishReason, TokenReport } from '../requests/answer.ts';
import {
  type AnswerFormat,
  type AnswerFrame,
  LOGPROB_CHARS,
  logprobJson,
  type Piece,
  type TokenTexts,
  type Usage,
  usageJson,
} from './answer-format.ts';

/** Answers of /v1/chat/completions. */
export class ChatFormat implements AnswerFormat {
  readonly #texts: TokenTexts;
  readonly #wantLogprob: boolean;
  /** Of the one prompt, when ids are asked for; else null. */
  readonly #promptIds: readonly number[] | null;
  readonly #chunkHead: string;
  readonly #bodyHead: string;

  constructor(frame: AnswerFrame, texts: TokenTexts, options: { wantLogprob: boolean; promptIds: readonly number[] | null }) {
    this.#texts = texts;
    this.#wantLogprob = options.wantLogprob;
    this.#promptIds = options.promptIds;
    const rest = `"created":${frame.created},"model":${JSON.stringify(frame.model)},"system_fingerprint":${JSON.stringify(frame.fingerprint)}`;
    this.#chunkHead = `data: {"id":"${frame.id}","object":"chat.completion.chunk",${rest},"choices":[`;
    this.#bodyHead = `{"id":"${frame.id}","object":"chat.completion",${rest},"choices":[`;
  }

  opening(index: number, usage: string): string {
    return `${this.#chunkHead}{"index":${index},"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]${this.#idsOfPrompt()}${usage}}\n\n`;
  }

  chunk({ index, text, reports, ids }: Piece, usage: string): string {
    const delta = `{"index":${index},"delta":{"content":${JSON.stringify(text)}},"logprobs":${this.#logprobs(reports)},"finish_reason":null${this.#ids(ids)}}`;
    return `${this.#chunkHead}${delta}]${usage}}\n\n`;
  }

  closing(index: number, reason: FinishReason, usage: string, extra: string): string {
    return `${this.#chunkHead}{"index":${index},"delta":{},"logprobs":null,"finish_reason":"${reason}"${extra}}]${usage}}\n\n`;
  }

  usageChunk(usage: Usage): string {
    return `${this.#chunkHead}],"usage":${usageJson(usage)}}\n\n`;
  }

  choice({ index, text, reports, ids }: Piece, reason: FinishReason, extra: string): string {
    const message = `{"role":"assistant","content":${JSON.stringify(text)},"refusal":null}`;
    const logprobs = this.#wantLogprob ? this.#logprobs(reports, true) : 'null';
    return `{"index":${index},"message":${message},"logprobs":${logprobs},"finish_reason":"${reason}"${this.#ids(ids)}${extra}}`;
  }

  body(choices: readonly string[], usage: Usage): string {
    return `${this.#bodyHead}${choices.join(',')}],"usage":${usageJson(usage)}${this.#idsOfPrompt()}}`;
  }

  reportChars({ token, top }: TokenReport): number {
    const entry = '{,"logprob":},'.length + LOGPROB_CHARS;
    let chars = this.#texts.chat(token).length + entry + ',"top_logprobs":[]'.length;
    for (let i = 0; top !== null && i < top.token.length; i++) chars += this.#texts.chat(top.token[i]).length + entry;
    return chars;
  }

  #ids(ids: readonly number[]): string {
    return this.#promptIds === null ? '' : `,"token_ids":[${ids.join(',')}]`;
  }

  #idsOfPrompt(): string {
    return this.#promptIds === null ? '' : `,"prompt_token_ids":[${this.#promptIds.join(',')}]`;
  }

  #logprobs(reports: readonly TokenReport[], always = false): string {
    if (reports.length === 0 && !always) return 'null';
    const entries = reports.map(({ token, logprob, top }) => {
      const alternatives: string[] = [];
      for (let i = 0; top !== null && i < top.token.length; i++)
        alternatives.push(`{${this.#texts.chat(top.token[i])},"logprob":${logprobJson(top.logprob[i])}}`);
      return `{${this.#texts.chat(token)},"logprob":${logprobJson(logprob!)},"top_logprobs":[${alternatives.join(',')}]}`;
    });
    return `{"content":[${entries.join(',')}],"refusal":null}`;
  }
}
