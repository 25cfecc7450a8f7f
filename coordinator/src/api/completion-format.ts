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

/** Answers of /v1/completions. */
export class CompletionFormat implements AnswerFormat {
  readonly #texts: TokenTexts;
  readonly #wantLogprob: boolean;
  readonly #topLogprobs: number;
  /** Of each prompt, when ids are asked for; else null. */
  readonly #promptIds: readonly Int32Array[] | null;
  readonly #choicesPerPrompt: number;
  readonly #head: string;

  constructor(
    frame: AnswerFrame,
    texts: TokenTexts,
    options: { wantLogprob: boolean; topLogprobs: number; promptIds: readonly Int32Array[] | null; choicesPerPrompt: number },
  ) {
    this.#texts = texts;
    this.#wantLogprob = options.wantLogprob;
    this.#topLogprobs = options.topLogprobs;
    this.#promptIds = options.promptIds;
    this.#choicesPerPrompt = options.choicesPerPrompt;
    this.#head = `{"id":"${frame.id}","object":"text_completion","created":${frame.created},"model":${JSON.stringify(frame.model)},"system_fingerprint":${JSON.stringify(frame.fingerprint)},"choices":[`;
  }

  opening(index: number, usage: string): string {
    const ids = this.#idsOfPrompt(index);
    return ids === '' ? '' : `data: ${this.#head}{"index":${index},"text":"","logprobs":null,"finish_reason":null${ids}}]${usage}}\n\n`;
  }

  *chunk(piece: Piece, usage: string): Iterable<string> {
    yield `data: ${this.#head}`;
    yield* this.#choice(piece, piece.reports.length > 0, 'null', this.#ids(piece.ids));
    yield `]${usage}}\n\n`;
  }

  closing(index: number, reason: FinishReason, usage: string, extra: string): string {
    return `data: ${this.#head}{"index":${index},"text":"","logprobs":null,"finish_reason":"${reason}"${extra}}]${usage}}\n\n`;
  }

  usageChunk(usage: Usage): string {
    return `data: ${this.#head}],"usage":${usageJson(usage)}}\n\n`;
  }

  *choice(piece: Piece, reason: FinishReason, extra: string): Iterable<string> {
    const ids = this.#ids(piece.ids) + this.#idsOfPrompt(piece.index);
    yield* this.#choice(piece, this.#wantLogprob, `"${reason}"`, ids + extra);
  }

  *body(choices: readonly Iterable<string>[], usage: Usage): Iterable<string> {
    yield this.#head;
    yield* joined(choices);
    yield `],"usage":${usageJson(usage)}}`;
  }

  /** The token stands in two columns, its log-probability too, and its offset in another. */
  reportChars({ token, top }: TokenReport): number {
    const entry = LOGPROB_CHARS + ':,'.length;
    let chars = 2 * (this.#texts.plain(token).length + entry) + '{},1234567,'.length;
    for (let i = 0; top !== null && i < top.token.length; i++) chars += this.#texts.plain(top.token[i]).length + entry;
    return chars;
  }

  promptIdsChars(index: number): number {
    return ID_CHARS * (this.#promptIdsOf(index)?.length ?? 0);
  }

  *#choice({ index, text, reports }: Piece, hasLogprobs: boolean, reason: string, ids: string): Iterable<string> {
    yield `{"index":${index},"text":${JSON.stringify(text)},"logprobs":`;
    if (hasLogprobs) yield* this.#logprobs(reports);
    else yield 'null';
    yield `,"finish_reason":${reason}${ids}}`;
  }

  #ids(ids: readonly number[]): string {
    return this.#promptIds === null ? '' : `,"token_ids":[${ids.join(',')}]`;
  }

  #promptIdsOf(index: number): Int32Array | undefined {
    return this.#promptIds?.[Math.floor(index / this.#choicesPerPrompt)];
  }

  #idsOfPrompt(index: number): string {
    const prompt = this.#promptIdsOf(index);
    return prompt === undefined ? '' : `,"prompt_token_ids":[${prompt.join(',')}]`;
  }

  /** OpenAI's columns. `top_logprobs` holds the chosen token too, whether or not it is among the best. */
  *#logprobs(reports: readonly TokenReport[]): Iterable<string> {
    yield '{"tokens":[';
    yield* listed(reports, ({ token }) => this.#texts.plain(token));
    yield '],"token_logprobs":[';
    yield* listed(reports, ({ logprob }) => (logprob === null ? 'null' : logprobJson(logprob)));
    yield '],"top_logprobs":';
    if (this.#topLogprobs === 0) yield 'null';
    else {
      yield '[';
      yield* listed(reports, ({ token, logprob, top }) => (logprob === null ? 'null' : this.#alternatives(token, logprob, top)));
      yield ']';
    }
    yield ',"text_offset":[';
    yield* listed(reports, ({ offset }) => String(offset));
    yield ']}';
  }

  #alternatives(token: number, logprob: number, top: TokenReport['top']): string {
    const entries: string[] = [];
    let chosen = false;
    for (let i = 0; top !== null && i < top.token.length; i++) {
      chosen ||= top.token[i] === token;
      entries.push(`${this.#texts.plain(top.token[i])}:${logprobJson(top.logprob[i])}`);
    }
    if (!chosen) entries.push(`${this.#texts.plain(token)}:${logprobJson(logprob)}`);
    return `{${entries.join(',')}}`;
  }
}
