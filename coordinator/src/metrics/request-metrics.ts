import { type ErrorCode, errorCatalogue } from '@switchyard/proto';
import { Counter, Histogram, type Registry } from 'prom-client';
import type { Answer, FinishReason } from '../requests/answer.ts';
import { type HomeReason, homeReasons } from '../requests/home-choice.ts';
import { type TrafficSum, trafficRatios } from '../requests/traffic.ts';
import {
  choiceBuckets,
  firstTokenBuckets,
  interTokenBuckets,
  metricPrefix,
  remoteNodeBuckets,
  requestBuckets,
  tokenBuckets,
} from './names.ts';

type Labelled = ReturnType<Histogram<string>['labels']>;

/** What requests did and how long it took. Label sets exist from the start, so that alerts see zeros instead of nothing. */
export class RequestMetrics {
  readonly #firstToken: Labelled;
  readonly #interToken: Labelled;
  readonly #endToEnd: Labelled;
  readonly #queue: Labelled;
  readonly #prefill: Labelled;
  readonly #decode: Labelled;
  readonly #inference: Labelled;
  readonly #promptTokens: Labelled;
  readonly #generationTokens: Labelled;
  readonly #paramsN: Labelled;
  readonly #paramsMaxTokens: Labelled;
  readonly #remoteNodes: Labelled;
  readonly #success: Counter<string>;
  readonly #errors: Counter<string>;
  readonly #homes: Counter<string>;
  readonly #visits: Counter<string>;
  readonly #bytes: Counter<string>;
  readonly #http: Counter<string>;
  readonly #model: string;

  constructor(registry: Registry, model: string) {
    this.#model = model;
    const histogram = (suffix: string, help: string, buckets: number[]): Labelled => {
      const made = new Histogram({ name: metricPrefix + suffix, help, buckets, labelNames: ['model_name'], registers: [registry] });
      made.zero({ model_name: model });
      return made.labels({ model_name: model });
    };
    const counter = (suffix: string, help: string, labelNames: string[]) =>
      new Counter({ name: metricPrefix + suffix, help, labelNames: ['model_name', ...labelNames], registers: [registry] });
    this.#firstToken = histogram('time_to_first_token_seconds', 'From the request to its first token.', firstTokenBuckets);
    this.#interToken = histogram('inter_token_latency_seconds', 'Between two tokens of a sequence.', interTokenBuckets);
    this.#endToEnd = histogram('e2e_request_latency_seconds', 'From the request to its last token.', requestBuckets);
    this.#queue = histogram(
      'request_queue_time_seconds',
      "From the request to its place in a worker's batch: waiting in the coordinator and on the worker.",
      requestBuckets,
    );
    this.#prefill = histogram('request_prefill_time_seconds', "From its place in a worker's batch to the first token.", requestBuckets);
    this.#decode = histogram('request_decode_time_seconds', 'From the first token to the last.', requestBuckets);
    this.#inference = histogram('request_inference_time_seconds', "From its place in a worker's batch to the last token.", requestBuckets);
    this.#promptTokens = histogram('request_prompt_tokens', 'Prompt tokens of a sequence.', tokenBuckets);
    this.#generationTokens = histogram('request_generation_tokens', 'Generated tokens of a sequence.', tokenBuckets);
    this.#paramsN = histogram('request_params_n', 'The n of a request.', choiceBuckets);
    this.#paramsMaxTokens = histogram('request_params_max_tokens', 'The max_tokens of a request.', tokenBuckets);
    this.#remoteNodes = histogram(
      'request_remote_nodes_per_row',
      'Distinct remote nodes that a row of a sequence visited per MoE layer, on average.',
      remoteNodeBuckets,
    );
    this.#success = counter('request_success_total', 'Sequences that ended, by reason.', ['finished_reason']);
    this.#errors = counter('request_errors_total', 'Requests and sequences that failed, by error code.', ['code']);
    this.#homes = counter('home_choices_total', 'Why a worker became the home of a sequence.', ['reason']);
    this.#visits = counter('request_expert_visits_total', "(row, expert) pairs of sequences, by whether the home's node computed them.", [
      'locality',
    ]);
    this.#bytes = counter('request_bytes_total', 'Bytes that rows of sequences and their sums took on links, by where they went.', [
      'locality',
    ]);
    this.#http = counter('http_responses_total', 'Answers of the HTTP API, by route and status.', ['route', 'status']);
    for (const reason of ['stop', 'length', 'abort', 'error']) this.#success.inc({ model_name: model, finished_reason: reason }, 0);
    for (const code of Object.keys(errorCatalogue)) this.#errors.inc({ model_name: model, code }, 0);
    for (const reason of homeReasons) this.#homes.inc({ model_name: model, reason }, 0);
    for (const metric of [this.#visits, this.#bytes])
      for (const locality of ['node', 'remote']) metric.inc({ model_name: model, locality }, 0);
  }

  onRequest(n: number, maxTokens: number | null): void {
    this.#paramsN.observe(n);
    if (maxTokens !== null) this.#paramsMaxTokens.observe(maxTokens);
  }

  onHome(reason: HomeReason): void {
    this.#homes.inc({ model_name: this.#model, reason });
  }

  /** What a sequence cost the network on one of its homes. */
  onTraffic(traffic: TrafficSum): void {
    const { r } = trafficRatios(traffic);
    if (r !== null) this.#remoteNodes.observe(r);
    const add = (metric: Counter<string>, locality: 'node' | 'remote', amount: number) =>
      metric.inc({ model_name: this.#model, locality }, amount);
    add(this.#visits, 'node', traffic.homeVisits);
    add(this.#visits, 'remote', traffic.visits - traffic.homeVisits);
    add(this.#bytes, 'node', traffic.intraNodeBytes);
    add(this.#bytes, 'remote', traffic.interNodeBytes);
  }

  onToken(answer: Answer, nowMs: number): void {
    if (answer.firstTokenMs === 0) {
      answer.firstTokenMs = nowMs;
      this.#firstToken.observe((nowMs - answer.arrivedMs) / 1000);
      this.#queue.observe((answer.batchedMs - answer.arrivedMs) / 1000);
      this.#prefill.observe((nowMs - answer.batchedMs) / 1000);
    } else {
      this.#interToken.observe((nowMs - answer.lastTokenMs) / 1000);
    }
    answer.lastTokenMs = nowMs;
  }

  onEnd(answer: Answer, nowMs: number): void {
    this.#promptTokens.observe(answer.spec.prompt.length);
    this.#generationTokens.observe(answer.completionTokens);
    this.#endToEnd.observe((nowMs - answer.arrivedMs) / 1000);
    if (answer.firstTokenMs === 0) return;
    this.#inference.observe((nowMs - answer.batchedMs) / 1000);
    this.#decode.observe((nowMs - answer.firstTokenMs) / 1000);
  }

  /** @param sequences that ended so */
  onFinish(reason: FinishReason | 'abort' | 'error', sequences = 1): void {
    this.#success.inc({ model_name: this.#model, finished_reason: reason }, sequences);
  }

  onError(code: ErrorCode): void {
    this.#errors.inc({ model_name: this.#model, code });
  }

  expectRoute(route: string): void {
    this.#http.inc({ model_name: this.#model, route, status: '200' }, 0);
  }

  onResponse(route: string, status: number): void {
    this.#http.inc({ model_name: this.#model, route, status: String(status) });
  }
}
