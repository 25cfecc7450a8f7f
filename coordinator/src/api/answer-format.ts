import { bounds } from '../bounds.ts';
import type { FinishReason, TokenReport } from '../requests/answer.ts';
import type { TokenPieces } from '../tokenizing/text-stream.ts';

/** What all chunks and bodies of one request share. */
export interface AnswerFrame {
  id: string;
  created: number;
  model: string;
  fingerprint: string;
}

export interface Usage {
  promptTokens: number;
  completionTokens: number;
  cachedTokens: number;
  /** Of what the client expected, and what of it did not come; null where it expected nothing in particular. */
  predictedTokens: { accepted: number; rejected: number } | null;
}

/** A piece of one choice: text that is final, and the tokens that came since the last piece (empty when nobody asked). */
export interface Piece {
  index: number;
  text: string;
  reports: readonly TokenReport[];
  ids: readonly number[];
}

/**
 * How one endpoint writes answers, as JSON text: chunks are written once per token, so they are put together from prepared text. What may hold log-probabilities
 * comes in parts, each a millisecond's work. `usage` is JSON to add to a chunk, or ''; `extra` is JSON to add to a choice that has ended, or ''.
 */
export interface AnswerFormat {
  /** Chunks that open a choice, if it needs any: `data: …` lines. */
  opening(index: number, usage: string): string;
  chunk(piece: Piece, usage: string): Iterable<string>;
  closing(index: number, reason: FinishReason, usage: string, extra: string): string;
  usageChunk(usage: Usage): string;
  /** A choice of a body that is not streamed. */
  choice(piece: Piece, reason: FinishReason, extra: string): Iterable<string>;
  body(choices: readonly Iterable<string>[], usage: Usage): Iterable<string>;
  /** About how many characters a token's log-probabilities take in a body. */
  reportChars(report: TokenReport): number;
  /** And the ids of its prompt that come with a choice. */
  promptIdsChars(index: number): number;
}

export function usageJson({ promptTokens, completionTokens, cachedTokens, predictedTokens: predicted }: Usage): string {
  const total = promptTokens + completionTokens;
  const details =
    predicted === null
      ? ''
      : `,"completion_tokens_details":{"accepted_prediction_tokens":${predicted.accepted},"rejected_prediction_tokens":${predicted.rejected}}`;
  return `{"prompt_tokens":${promptTokens},"completion_tokens":${completionTokens},"total_tokens":${total},"prompt_tokens_details":{"cached_tokens":${cachedTokens}}${details}}`;
}

/** Tokens whose log-probabilities are written as one part: 40,000 characters with 20 alternatives each. */
const REPORTS_OF_PART = 64;

/** Whether a piece is made at once: those of single tokens are, a prompt's is not. */
export function isShort({ reports }: Piece): boolean {
  return reports.length <= REPORTS_OF_PART;
}

/** About how many characters a body has for them: of many, as a sample says. */
export function aboutChars(format: AnswerFormat, reports: readonly TokenReport[]): number {
  const stride = Math.ceil(reports.length / REPORTS_OF_PART);
  let chars = 0;
  for (let i = 0; i < reports.length; i += stride) chars += format.reportChars(reports[i]);
  return chars * stride;
}

/** What is written for each token, with commas between. */
export function* listed(reports: readonly TokenReport[], entry: (report: TokenReport) => string): Iterable<string> {
  for (let at = 0; at < reports.length; at += REPORTS_OF_PART) {
    const entries = reports.slice(at, at + REPORTS_OF_PART).map(entry);
    yield (at === 0 ? '' : ',') + entries.join(',');
  }
}

/** The parts of each, with commas between. */
export function* joined(lists: readonly Iterable<string>[]): Iterable<string> {
  for (const [i, parts] of lists.entries()) {
    if (i > 0) yield ',';
    yield* parts;
  }
}

/** Of a token's id as JSON, with a comma. */
export const ID_CHARS = String(bounds.tokenIdsMax).length + 1;

/** Of a log-probability as JSON: a double's shortest spelling. */
export const LOGPROB_CHARS = 20;

/** JSON has no infinities; OpenAI writes this for "practically never". */
const NEVER = -9999;

export function logprobJson(logprob: number): string {
  return String(Number.isFinite(logprob) ? logprob : NEVER);
}

/** A token's text in JSON. Prepared once per token: log-probabilities name the same few thousand tokens again and again. */
export class TokenTexts {
  readonly #pieces: TokenPieces;
  readonly #chat: string[] = [];
  readonly #plain: string[] = [];

  constructor(pieces: TokenPieces) {
    this.#pieces = pieces;
  }

  /** `"token":"…","bytes":[…]`; text of half characters has U+FFFD, bytes are exact. */
  chat(token: number): string {
    this.#chat[token] ??=
      `"token":${JSON.stringify(lossy.decode(this.#pieces.bytes(token)))},"bytes":[${this.#pieces.bytes(token).join(',')}]`;
    return this.#chat[token];
  }

  /** The text, quoted; half characters as OpenAI's completions spell them, `bytes:\xe2\x82`, so that different tokens stay different. */
  plain(token: number): string {
    this.#plain[token] ??= JSON.stringify(this.#pieces.wholeText(token) ?? `bytes:${spelledBytes(this.#pieces.bytes(token))}`);
    return this.#plain[token];
  }
}

const lossy = new TextDecoder('utf-8', { ignoreBOM: true });

function spelledBytes(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => `\\x${byte.toString(16).padStart(2, '0')}`).join('');
}
