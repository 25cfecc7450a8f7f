import { Finish, PredictedText, type PromptLogprobs, type Sampling, type SwitchyardError, type TopLogprobs } from '@switchyard/proto';
import { StopStrings } from '../tokenizing/stop-strings.ts';
import { TextStream, type TokenPieces } from '../tokenizing/text-stream.ts';
import type { HomeChoice } from './home-choice.ts';
import { noTraffic, type TrafficSum } from './traffic.ts';

/** What one sequence is asked for. */
export interface AnswerSpec {
  /** Shared by all choices, as 4 bytes an id: it may wait for long. */
  prompt: Int32Array;
  /** What its client expects of it; empty: nothing in particular. */
  prediction: Int32Array;
  maxTokens: number;
  minTokens: number;
  sampling: Sampling;
  /** End the answer; left out of its text. Those that the client named come first. */
  stopTokens: number[];
  clientStopTokens: number;
  stopStrings: string[];
  includeStop: boolean;
  skipSpecial: boolean;
  wantLogprob: boolean;
  /** Alternatives per token. */
  topLogprobs: number;
  /** Logprobs of the prompt's tokens too. */
  promptLogprobs: boolean;
  returnTokenIds: boolean;
  /** The client wants to know where it ran and what it cost the network. */
  wantTraffic: boolean;
  tenant: string;
  domain: string;
  /** Sequence of the trace whose routing is replayed; null: whichever the worker takes. */
  replaySequence: number | null;
}

/** A token as its client wants to know it. */
export interface TokenReport {
  token: number;
  /** Null for the first token of a prompt. */
  logprob: number | null;
  top: TopLogprobs | null;
  /** Characters (code points) of the answer before it. */
  offset: number;
}

export type FinishReason = 'stop' | 'length';

/** Who receives an answer as it comes. Exactly one of `onEnd` and `onFailed` is called, and nothing after it. */
export interface AnswerListener {
  /** Text and, in `answer.reports` and `answer.ids`, what belongs to it; the listener takes those away. */
  onPiece(answer: Answer, text: string): void;
  onEnd(answer: Answer, reason: FinishReason): void;
  onFailed(answer: Answer, error: SwitchyardError): void;
  /** One of the above threw, or `flush` did: whatever the answers are in, there is no more to come. Does not throw. */
  onBroken(error: unknown): void;
  /** All that one message brought has been handed over. */
  flush(): void;
}

/** One sequence on its way from a worker to a client: ids become text, stop strings end it, log-probabilities go along. */
export class Answer {
  readonly index: number;
  readonly spec: AnswerSpec;
  readonly listener: AnswerListener;
  /** Given when it is submitted; unique per life of the coordinator. */
  request = -1;
  home: HomeChoice | null = null;
  /** Where its first chunk was computed, when what that chose moved it. */
  movedFrom: HomeChoice | null = null;
  /** A worker refused it or was lost before it had begun, and it was given to another: that is tried once. */
  givenOn = false;
  /** `PrefixPoints` of its prompt. */
  points: readonly number[] = [];
  /** As far as workers have told, all its homes together. */
  readonly traffic: TrafficSum = noTraffic();
  /** Milliseconds of performance.now: when the last byte of its request was here. */
  arrivedMs = 0;
  /** When a step first computed something of it, as its worker says with the first token. */
  batchedMs = 0;
  firstTokenMs = 0;
  lastTokenMs = 0;
  completionTokens = 0;
  /** How much of what was expected has come; null where nothing was. */
  readonly predicted: PredictedText | null;
  cachedTokens = 0;
  /** Not yet taken by the listener. */
  reports: TokenReport[] = [];
  ids: number[] = [];
  promptReports: TokenReport[] | null = null;
  /** The client has had its end; the worker's may be on its way. */
  closed = false;
  readonly #pieces: TokenPieces;
  readonly #specialIds: ReadonlySet<number>;
  readonly #stream: TextStream;
  readonly #stops: StopStrings | null;
  #offset = 0;
  /** Of the prompt, before the answer. */
  #echo = '';
  /** The last text of an answer that is complete but for its bill. */
  #awaitingBill: string | null = null;

  constructor(index: number, spec: AnswerSpec, listener: AnswerListener, pieces: TokenPieces, specialIds: ReadonlySet<number>) {
    this.index = index;
    this.spec = spec;
    this.listener = listener;
    this.#pieces = pieces;
    this.#specialIds = specialIds;
    this.#stream = new TextStream(pieces);
    this.predicted = spec.prediction.length > 0 ? new PredictedText(spec.prediction) : null;
    this.#stops = spec.stopStrings.length === 0 ? null : new StopStrings(spec.stopStrings, spec.includeStop);
  }

  /** Logprobs of the prompt's tokens from the second on. */
  acceptPrompt({ logprob, top }: PromptLogprobs): void {
    const stream = new TextStream(this.#pieces);
    let offset = 0;
    let at = 0;
    this.promptReports = Array.from(this.spec.prompt, (token, i) => {
      const report = { token, logprob: i === 0 ? null : logprob[i - 1], top: i === 0 ? null : (top[i - 1] ?? null), offset };
      const next = at + this.#echoedChars(at, token, stream.push(token));
      offset += codePoints(this.#echo.slice(at, next));
      at = next;
      return report;
    });
  }

  /** The prompt as its client gave it precedes the answer: offsets count from its beginning. */
  follow(echo: string): void {
    this.#echo = echo;
    this.#offset = codePoints(echo);
  }

  /** How much of the echo one of the prompt's tokens spells. Tokenizers put control tokens around a text, and a space before it, that are none of it. */
  #echoedChars(at: number, token: number, piece: string): number {
    if (this.#echo.startsWith(piece, at)) return piece.length;
    if (this.#specialIds.has(token)) return 0;
    if (piece.startsWith(' ') && this.#echo.startsWith(piece.slice(1), at)) return piece.length - 1;
    // The tokenizer writes some characters otherwise, a capital as a small letter, say.
    return Math.min(piece.length, this.#echo.length - at);
  }

  /**
   * One generated token.
   *
   * @returns true when the answer has ended and its worker does not know yet: a stop string is text, which workers never see
   */
  accept(token: number, finish: number, logprob: number | null, top: TopLogprobs | null): boolean {
    this.completionTokens++;
    this.predicted?.push(token);
    if (this.spec.returnTokenIds) this.ids.push(token);
    if (logprob !== null) this.reports.push({ token, logprob, top, offset: this.#offset });
    const piece = this.#shown(token, finish) ? this.#stream.push(token) : '';
    if (logprob !== null) this.#offset += codePoints(piece);
    const { text, stopped } = this.#stops?.push(piece, this.#mayStop) ?? { text: piece, stopped: false };
    if (stopped && finish === Finish.none && this.spec.wantTraffic) this.#awaitingBill = text;
    else if (stopped) this.#end(text, 'stop');
    else if (finish !== Finish.none) this.#end(text + this.#rest(), finish === Finish.stop ? 'stop' : 'length');
    else if (text !== '' || this.reports.length > 0) this.listener.onPiece(this, text);
    return stopped && finish === Finish.none;
  }

  /** An end that brings no token. */
  acceptEnd(): void {
    this.#end(this.#rest(), 'length');
  }

  /** Complete; its worker has been told to stop, and will answer with the bill. */
  get awaitsBill(): boolean {
    return this.#awaitingBill !== null;
  }

  /** The bill is here, or will never be. */
  settle(): void {
    if (this.#awaitingBill === null || this.closed) return;
    this.#end(this.#awaitingBill, 'stop');
  }

  fail(error: SwitchyardError): void {
    this.settle();
    if (this.closed) return;
    this.closed = true;
    this.listener.onFailed(this, error);
  }

  #end(text: string, reason: FinishReason): void {
    this.closed = true;
    if (text !== '' || this.reports.length > 0 || this.ids.length > 0) this.listener.onPiece(this, text);
    this.listener.onEnd(this, reason);
  }

  /** Whether a token is part of the text: special tokens are not unless asked for, nor is the token that ended the answer. */
  #shown(token: number, finish: number): boolean {
    if (finish === Finish.stop && !this.#isIncludedStop(token)) return false;
    return !(this.spec.skipSpecial && this.#specialIds.has(token));
  }

  #isIncludedStop(token: number): boolean {
    return this.spec.includeStop && this.spec.stopTokens.indexOf(token) < this.spec.clientStopTokens;
  }

  get #mayStop(): boolean {
    return this.completionTokens > this.spec.minTokens;
  }

  /** Text held back so far: half a character, or what looked like the beginning of a stop string. */
  #rest(): string {
    const half = this.#stream.end();
    if (this.#stops === null) return half;
    const { text, stopped } = half === '' ? { text: '', stopped: false } : this.#stops.push(half, this.#mayStop);
    return stopped ? text : text + this.#stops.end();
  }
}

/** Length as other languages count it. */
function codePoints(text: string): number {
  let count = text.length;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code >= 0xd800 && code < 0xdc00) count--;
  }
  return count;
}
