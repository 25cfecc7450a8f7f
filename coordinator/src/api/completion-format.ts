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

/** Answers of /v1/completions. */
export class CompletionFormat implements AnswerFormat {
  readonly #texts: TokenTexts;
  readonly #wantLogprob: boolean;
  readonly #topLogprobs: number;
  /** Of each prompt, when ids are asked for; else null. */
  readonly #promptIds: readonly (readonly number[])[] | null;
  readonly #choicesPerPrompt: number;
  readonly #head: string;

  constructor(
    frame: AnswerFrame,
    texts: TokenTexts,
    options: { wantLogprob: boolean; topLogprobs: number; promptIds: readonly (readonly number[])[] | null; choicesPerPrompt: number },
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
    return ids === '' ? '' : `data: ${this.#head}${this.#choice({ index, text: '' }, 'null', 'null', ids)}]${usage}}\n\n`;
  }

  chunk(piece: Piece, usage: string): string {
    const logprobs = piece.reports.length === 0 ? 'null' : this.#logprobs(piece.reports);
    return `data: ${this.#head}${this.#choice(piece, logprobs, 'null', this.#ids(piece.ids))}]${usage}}\n\n`;
  }

  closing(index: number, reason: FinishReason, usage: string, extra: string): string {
    return `data: ${this.#head}{"index":${index},"text":"","logprobs":null,"finish_reason":"${reason}"${extra}}]${usage}}\n\n`;
  }

  usageChunk(usage: Usage): string {
    return `data: ${this.#head}],"usage":${usageJson(usage)}}\n\n`;
  }

  choice(piece: Piece, reason: FinishReason, extra: string): string {
    const ids = this.#ids(piece.ids) + this.#idsOfPrompt(piece.index);
    return this.#choice(piece, this.#wantLogprob ? this.#logprobs(piece.reports) : 'null', `"${reason}"`, ids + extra);
  }

  body(choices: readonly string[], usage: Usage): string {
    return `${this.#head}${choices.join(',')}],"usage":${usageJson(usage)}}`;
  }

  /** The token stands in two columns, its log-probability too, and its offset in another. */
  reportChars({ token, top }: TokenReport): number {
    const entry = LOGPROB_CHARS + ':,'.length;
    let chars = 2 * (this.#texts.plain(token).length + entry) + '{},1234567,'.length;
    for (let i = 0; top !== null && i < top.token.length; i++) chars += this.#texts.plain(top.token[i]).length + entry;
    return chars;
  }

  #choice({ index, text }: Pick<Piece, 'index' | 'text'>, logprobs: string, reason: string, ids: string): string {
    return `{"index":${index},"text":${JSON.stringify(text)},"logprobs":${logprobs},"finish_reason":${reason}${ids}}`;
  }

  #ids(ids: readonly number[]): string {
    return this.#promptIds === null ? '' : `,"token_ids":[${ids.join(',')}]`;
  }

  #idsOfPrompt(index: number): string {
    const prompt = this.#promptIds?.[Math.floor(index / this.#choicesPerPrompt)];
    return prompt === undefined ? '' : `,"prompt_token_ids":[${prompt.join(',')}]`;
  }

  /** OpenAI's columns. `top_logprobs` holds the chosen token too, whether or not it is among the best. */
  #logprobs(reports: readonly TokenReport[]): string {
    const tokens: string[] = [];
    const logprobs: string[] = [];
    const tops: string[] = [];
    const offsets: number[] = [];
    for (const { token, logprob, top, offset } of reports) {
      tokens.push(this.#texts.plain(token));
      logprobs.push(logprob === null ? 'null' : logprobJson(logprob));
      tops.push(logprob === null ? 'null' : this.#alternatives(token, logprob, top));
      offsets.push(offset);
    }
    const topColumn = this.#topLogprobs === 0 ? 'null' : `[${tops.join(',')}]`;
    return `{"tokens":[${tokens.join(',')}],"token_logprobs":[${logprobs.join(',')}],"top_logprobs":${topColumn},"text_offset":[${offsets.join(',')}]}`;
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
