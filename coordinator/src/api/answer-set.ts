import { SwitchyardError } from '@switchyard/proto';
import { bounds } from '../bounds.ts';
import type { Log } from '../log.ts';
import type { RequestMetrics } from '../metrics/request-metrics.ts';
import type { Answer, AnswerListener, FinishReason } from '../requests/answer.ts';
import type { Dispatcher } from '../requests/dispatcher.ts';
import type { Usage } from './answer-format.ts';
import { billOf } from './bill.ts';
import type { MemoryLease } from './leased-memory.ts';

/** Where answers come from and how they are shown. */
export interface AnswerSetBase {
  dispatcher: Dispatcher;
  metrics: RequestMetrics;
  log: Log;
  requestId: string;
  arrivedMs: number;
  workers: readonly { name: string; node: number }[];
  /** Text of each prompt, where it comes before the answer. */
  echo: readonly string[] | null;
  choicesPerPrompt: number;
  /** What its text takes until its client has it. */
  memory: MemoryLease;
}

/**
 * The answers that one HTTP response consists of. Delivers their pieces to whoever writes the response, the echo of the prompt first. One that fails takes the
 * others with it: half an answer is none.
 */
export abstract class AnswerSet implements AnswerListener {
  readonly #dispatcher: Dispatcher;
  readonly #metrics: RequestMetrics;
  readonly #log: Log;
  readonly #requestId: string;
  readonly #arrivedMs: number;
  readonly #workers: AnswerSetBase['workers'];
  readonly #echo: readonly string[] | null;
  readonly #choicesPerPrompt: number;
  protected readonly memory: MemoryLease;
  readonly #echoed: boolean[] = [];
  #answers: readonly Answer[] = [];
  #open = 0;
  #over = false;

  constructor({ dispatcher, metrics, log, requestId, arrivedMs, workers, echo, choicesPerPrompt, memory }: AnswerSetBase) {
    this.#dispatcher = dispatcher;
    this.#metrics = metrics;
    this.#log = log;
    this.#requestId = requestId;
    this.#arrivedMs = arrivedMs;
    this.#workers = workers;
    this.#echo = echo;
    this.#choicesPerPrompt = choicesPerPrompt;
    this.memory = memory;
  }

  /** Hands the answers to workers. @throws SwitchyardError `queue_full`: none of them was taken then */
  start(answers: readonly Answer[]): void {
    this.#answers = answers;
    this.#open = answers.length;
    for (const answer of answers) answer.arrivedMs = this.#arrivedMs;
    if (this.#echo !== null) for (const answer of answers) answer.follow(this.#echo[this.promptOf(answer)]);
    try {
      this.#dispatcher.admit(answers);
    } catch (error) {
      this.#over = true;
      throw error;
    }
  }

  get over(): boolean {
    return this.#over;
  }

  promptOf(answer: Answer): number {
    return Math.floor(answer.index / this.#choicesPerPrompt);
  }

  /** "n0w1; least-loaded" for each choice, once known, of as many as a header can hold: for people who wonder where their request ran. */
  homes(): string {
    let homes = '';
    for (const { home } of this.#answers) {
      if (home === null) continue;
      const entry = `${homes === '' ? '' : ', '}${headerName(this.#workers[home.worker].name)}; ${home.reason}`;
      if (homes.length + entry.length > bounds.homesHeaderCharsMax) break;
      homes += entry;
    }
    return homes;
  }

  /** What a choice that has ended tells of its home and its traffic, as JSON to add to it; '' unless asked for. */
  protected bill(answer: Answer): string {
    return answer.spec.wantTraffic ? `,"switchyard":${JSON.stringify(billOf(answer, this.#workers))}` : '';
  }

  usage(): Usage {
    let promptTokens = 0;
    let completionTokens = 0;
    let cachedTokens = 0;
    let accepted = 0;
    let predicted = 0;
    for (const answer of this.#answers) {
      completionTokens += answer.completionTokens;
      accepted += answer.predicted?.met ?? 0;
      predicted += answer.spec.prediction.length;
      // A prompt counts once, whatever n is.
      if (answer.index % this.#choicesPerPrompt > 0) continue;
      promptTokens += answer.spec.prompt.length;
      cachedTokens += answer.cachedTokens;
    }
    const predictedTokens = predicted === 0 ? null : { accepted, rejected: Math.max(0, predicted - accepted) };
    return { promptTokens, completionTokens, cachedTokens, predictedTokens };
  }

  /** The client has gone: workers stop. */
  abandon(): void {
    if (this.#over) return;
    this.#over = true;
    this.#cancelOpen();
    this.#metrics.onFinish('abort', this.#open);
    this.#open = 0;
  }

  onPiece(answer: Answer, text: string): void {
    if (!this.#over) this.piece(answer, this.#withEcho(answer, text));
  }

  onEnd(answer: Answer, reason: FinishReason): void {
    if (this.#over) return;
    // An answer of no tokens still has its prompt to echo.
    if (this.#echo !== null && !this.#echoed[answer.index]) this.piece(answer, this.#withEcho(answer, ''));
    // It may have been too much.
    if (this.#over) return;
    this.#metrics.onFinish(reason);
    this.#open--;
    this.#over = this.#open === 0;
    this.end(answer, reason);
    if (this.#over) this.complete();
  }

  onFailed(_answer: Answer, error: SwitchyardError): void {
    if (!this.#over) this.fail(error);
  }

  /** What cannot be written fails this request alone: its tokens came with those of others. */
  onBroken(error: unknown): void {
    if (!(error instanceof SwitchyardError)) this.#log.error({ request: this.#requestId, err: error }, 'request failed');
    // Also those that are closed: it may be their end that was not told.
    for (const answer of this.#answers) this.#dispatcher.cancel(answer);
    try {
      this.fail(unwritable(error));
      this.flush();
    } catch {
      this.cut();
    }
  }

  flush(): void {}

  /** Ends all of it with an error. */
  protected fail(error: SwitchyardError): void {
    this.#metrics.onFinish('error', this.#open);
    this.#metrics.onError(error.code);
    this.#open = 0;
    this.#over = true;
    this.#cancelOpen();
    this.failed(error);
  }

  protected abstract piece(answer: Answer, text: string): void;
  protected abstract end(answer: Answer, reason: FinishReason): void;
  protected abstract complete(): void;
  protected abstract failed(error: SwitchyardError): void;
  /** Ends the connection: nothing sensible can be said any more. */
  protected abstract cut(): void;

  #withEcho(answer: Answer, text: string): string {
    if (this.#echo === null || this.#echoed[answer.index]) return text;
    this.#echoed[answer.index] = true;
    if (answer.promptReports !== null) answer.reports = answer.promptReports.concat(answer.reports);
    // The answer lives until the response has closed: it must not keep them.
    answer.promptReports = null;
    return this.#echo[this.promptOf(answer)] + text;
  }

  #cancelOpen(): void {
    for (const answer of this.#answers) if (!answer.closed) this.#dispatcher.cancel(answer);
  }
}

/** A worker's name may have any characters, a header may not. */
function headerName(name: string): string {
  return name.replaceAll(/[^\w.:-]+/g, (rest) => Buffer.from(rest).toString('hex').toUpperCase().replaceAll(/../g, '%$&'));
}

/** There may be no room for it, or text outgrow the longest string; anything else is a defect of ours, whose message stays in the log. */
function unwritable(error: unknown): SwitchyardError {
  if (error instanceof SwitchyardError) return error;
  return error instanceof RangeError && error.message === 'Invalid string length'
    ? new SwitchyardError('invalid_request', 'the answer is too long to be written: ask for fewer log-probabilities')
    : new SwitchyardError('internal', 'the server failed; its log says more under this request id');
}
