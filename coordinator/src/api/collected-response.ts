import type { ServerResponse } from 'node:http';
import { SwitchyardError } from '@switchyard/proto';
import { bounds } from '../bounds.ts';
import type { Answer, FinishReason } from '../requests/answer.ts';
import { type AnswerFormat, aboutChars, ID_CHARS } from './answer-format.ts';
import { AnswerSet, type AnswerSetBase } from './answer-set.ts';
import { HeldText } from './held-text.ts';
import { sendBytes, sendError } from './reply.ts';

/** An answer that is sent whole when it is complete, put together in parts between which others are served. One that grows beyond a bound is given up: it would be held in memory to no end. */
export class CollectedResponse extends AnswerSet {
  readonly #response: ServerResponse;
  readonly #format: AnswerFormat;
  readonly #charsMax: number;
  readonly #texts: string[] = [];
  readonly #choices: Iterable<string>[] = [];
  /** Reports and ids of each choice that are counted. */
  readonly #counted: { reports: number; ids: number }[] = [];
  /** Of all choices, about. */
  #chars = 0;

  constructor(response: ServerResponse, format: AnswerFormat, base: AnswerSetBase, charsMax: number = bounds.collectedCharsMax) {
    super(base);
    this.#response = response;
    this.#format = format;
    this.#charsMax = charsMax;
    response.on('close', () => this.abandon());
  }

  protected override piece(answer: Answer, text: string): void {
    const { index, reports, ids } = answer;
    this.#texts[index] = (this.#texts[index] ?? '') + text;
    const counted = this.#counted[index];
    this.#chars += text.length;
    this.#chars += aboutChars(this.#format, reports.slice(counted?.reports ?? 0));
    this.#chars += ID_CHARS * (ids.length - (counted?.ids ?? 0));
    if (counted === undefined) this.#chars += this.#format.promptIdsChars(index);
    this.#counted[index] = { reports: reports.length, ids: ids.length };
    if (this.#chars > this.#charsMax)
      this.fail(
        new SwitchyardError(
          'invalid_request',
          `the answer is longer than ${this.#charsMax} characters, the limit of one that is not streamed: ask for fewer log-probabilities or choices, or for a stream`,
        ),
      );
    else this.memory.hold(this.#chars);
  }

  protected override end(answer: Answer, reason: FinishReason): void {
    const { index, reports, ids } = answer;
    this.#choices[index] = this.#format.choice({ index, text: this.#texts[index] ?? '', reports, ids }, reason, this.bill(answer));
    answer.reports = [];
  }

  protected override complete(): void {
    const body = new HeldText();
    this.#texts.length = 0;
    body.addLater(this.#format.body(this.#choices, this.usage()), this.#chars);
    this.#send(body, [], 0);
  }

  #send(body: HeldText, bytes: Buffer[], length: number): void {
    const part = Buffer.from(body.take(bounds.charsOfTurn));
    const sofar = length + part.length;
    this.memory.hold(Math.max(this.#chars, sofar));
    bytes.push(part);
    if (body.empty) sendBytes(this.#response, 200, bytes, { 'x-switchyard-home': this.homes() });
    else setImmediate(() => this.#goOn(body, bytes, sofar));
  }

  #goOn(body: HeldText, bytes: Buffer[], length: number): void {
    // Gone, or refused: the server is ending.
    if (this.#response.destroyed || this.#response.headersSent) return;
    try {
      this.#send(body, bytes, length);
    } catch (error) {
      this.onBroken(error);
    }
  }

  protected override failed(error: SwitchyardError): void {
    sendError(this.#response, error);
  }

  protected override cut(): void {
    this.#response.destroy();
  }
}
