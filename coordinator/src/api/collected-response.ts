import type { ServerResponse } from 'node:http';
import type { SwitchyardError } from '@switchyard/proto';
import type { RequestMetrics } from '../metrics/request-metrics.ts';
import type { Answer, FinishReason } from '../requests/answer.ts';
import type { Dispatcher } from '../requests/dispatcher.ts';
import type { AnswerFormat } from './answer-format.ts';
import { AnswerSet } from './answer-set.ts';
import { sendError, sendJson } from './reply.ts';

/** An answer that is sent whole when it is complete. */
export class CollectedResponse extends AnswerSet {
  readonly #response: ServerResponse;
  readonly #format: AnswerFormat;
  readonly #nameOf: (worker: number) => string;
  readonly #texts: string[] = [];
  readonly #choices: string[] = [];

  constructor(
    response: ServerResponse,
    format: AnswerFormat,
    nameOf: (worker: number) => string,
    base: { dispatcher: Dispatcher; metrics: RequestMetrics; echo: readonly string[] | null; choicesPerPrompt: number },
  ) {
    super(base.dispatcher, base.metrics, base.echo, base.choicesPerPrompt);
    this.#response = response;
    this.#format = format;
    this.#nameOf = nameOf;
    response.on('close', () => this.abandon());
  }

  protected override piece(answer: Answer, text: string): void {
    this.#texts[answer.index] = (this.#texts[answer.index] ?? '') + text;
  }

  protected override end(answer: Answer, reason: FinishReason): void {
    const { index, reports, ids } = answer;
    this.#choices[index] = this.#format.choice({ index, text: this.#texts[index] ?? '', reports, ids }, reason);
    answer.reports = [];
  }

  protected override complete(): void {
    sendJson(this.#response, 200, this.#format.body(this.#choices, this.usage()), { 'x-switchyard-home': this.homes(this.#nameOf) });
  }

  protected override failed(error: SwitchyardError): void {
    sendError(this.#response, error);
  }
}
