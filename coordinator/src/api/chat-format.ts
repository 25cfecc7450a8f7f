import type { FinishReason, TokenReport } from '../requests/answer.ts';
import {
  type AnswerFormat,
  type AnswerFrame,
  ID_CHARS,
  joined,
  LOGPROB_CHARS,
  listed,
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
  readonly #promptIds: Int32Array | null;
  readonly #chunkHead: string;
  readonly #bodyHead: string;

  constructor(frame: AnswerFrame, texts: TokenTexts, options: { wantLogprob: boolean; promptIds: Int32Array | null }) {
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

  *chunk({ index, text, reports, ids }: Piece, usage: string): Iterable<string> {
    yield `${this.#chunkHead}{"index":${index},"delta":{"content":${JSON.stringify(text)}},"logprobs":`;
    yield* this.#logprobs(reports, reports.length > 0);
    yield `,"finish_reason":null${this.#ids(ids)}}]${usage}}\n\n`;
  }

  closing(index: number, reason: FinishReason, usage: string, extra: string): string {
    return `${this.#chunkHead}{"index":${index},"delta":{},"logprobs":null,"finish_reason":"${reason}"${extra}}]${usage}}\n\n`;
  }

  usageChunk(usage: Usage): string {
    return `${this.#chunkHead}],"usage":${usageJson(usage)}}\n\n`;
  }

  *choice({ index, text, reports, ids }: Piece, reason: FinishReason, extra: string): Iterable<string> {
    const message = `{"role":"assistant","content":${JSON.stringify(text)},"refusal":null}`;
    yield `{"index":${index},"message":${message},"logprobs":`;
    yield* this.#logprobs(reports, this.#wantLogprob);
    yield `,"finish_reason":"${reason}"${this.#ids(ids)}${extra}}`;
  }

  *body(choices: readonly Iterable<string>[], usage: Usage): Iterable<string> {
    yield this.#bodyHead;
    yield* joined(choices);
    yield `],"usage":${usageJson(usage)}${this.#idsOfPrompt()}}`;
  }

  reportChars({ token, top }: TokenReport): number {
    const entry = '{,"logprob":},'.length + LOGPROB_CHARS;
    let chars = this.#texts.chat(token).length + entry + ',"top_logprobs":[]'.length;
    for (let i = 0; top !== null && i < top.token.length; i++) chars += this.#texts.chat(top.token[i]).length + entry;
    return chars;
  }

  /** They stand once behind all choices. */
  promptIdsChars(index: number): number {
    return index === 0 && this.#promptIds !== null ? ID_CHARS * this.#promptIds.length : 0;
  }

  #ids(ids: readonly number[]): string {
    return this.#promptIds === null ? '' : `,"token_ids":[${ids.join(',')}]`;
  }

  #idsOfPrompt(): string {
    return this.#promptIds === null ? '' : `,"prompt_token_ids":[${this.#promptIds.join(',')}]`;
  }

  *#logprobs(reports: readonly TokenReport[], wanted: boolean): Iterable<string> {
    if (!wanted) {
      yield 'null';
      return;
    }
    yield '{"content":[';
    yield* listed(reports, (report) => this.#entry(report));
    yield '],"refusal":null}';
  }

  #entry({ token, logprob, top }: TokenReport): string {
    const alternatives: string[] = [];
    for (let i = 0; top !== null && i < top.token.length; i++)
      alternatives.push(`{${this.#texts.chat(top.token[i])},"logprob":${logprobJson(top.logprob[i])}}`);
    return `{${this.#texts.chat(token)},"logprob":${logprobJson(logprob!)},"top_logprobs":[${alternatives.join(',')}]}`;
  }
}
