import type { ServerResponse } from 'node:http';
import type { SwitchyardError } from '@switchyard/proto';
import type { Answer, FinishReason } from '../requests/answer.ts';
import type { AnswerFormat } from './answer-format.ts';
import { AnswerSet, type AnswerSetBase } from './answer-set.ts';
import { sendError, sendJson } from './reply.ts';

/** An answer that is sent whole when it is complete. */
export class CollectedResponse extends AnswerSet {
  readonly #response: ServerResponse;
  readonly #format: AnswerFormat;
  readonly #texts: string[] = [];
  readonly #choices: string[] = [];

  constructor(response: ServerResponse, format: AnswerFormat, base: AnswerSetBase) {
    super(base);
    this.#response = response;
    this.#format = format;
    response.on('close', () => this.abandon());
  }

  protected override piece(answer: Answer, text: string): void {
    this.#texts[answer.index] = (this.#texts[answer.index] ?? '') + text;
  }

  protected override end(answer: Answer, reason: FinishReason): void {
    const { index, reports, ids } = answer;
    this.#choices[index] = this.#format.choice({ index, text: this.#texts[index] ?? '', reports, ids }, reason, this.bill(answer));
    answer.reports = [];
  }

  protected override complete(): void {
    sendJson(this.#response, 200, this.#format.body(this.#choices, this.usage()), { 'x-switchyard-home': this.homes() });
  }

  protected override failed(error: SwitchyardError): void {
    sendError(this.#response, error);
  }
}
