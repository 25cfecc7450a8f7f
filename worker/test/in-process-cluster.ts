import type { Native } from '@switchyard/native';
import {
  Finish,
  type Link,
  type Listener,
  type Plan,
  type Routing,
  type Submit,
  SwitchyardError,
  type Tokens,
  type TraceRows,
  type Traffic,
  type Transport,
} from '@switchyard/proto';
import { Counters } from '../src/engine/counters.ts';
import { Engine } from '../src/engine/engine.ts';
import { NodeVisits } from '../src/engine/node-visits.ts';
import type { RoutingReplay } from '../src/engine/routing-replay.ts';
import { TimeSplit } from '../src/engine/time-split.ts';
import { Exchange } from '../src/exchange/exchange.ts';
import { ExpertServer } from '../src/exchange/expert-server.ts';
import type { Model } from '../src/model/contract.ts';

export interface ClusterOptions {
  native: Native;
  /** The model of each worker, with the experts that the plan puts there. Closed with the cluster. */
  models: Model[];
  plan: Plan;
  transport: Transport;
  /** Where worker w listens. */
  addressOf: (worker: number) => string;
  maxBatchRows: number;
  maxSequences: number;
  maxLogitRows: number;
  prefixCache: boolean;
  draftMax: number;
  rowDeadlineMs: number;
  /** Workers that are not there to begin with; `revive` brings them. */
  absent?: readonly number[];
  /** What each worker replays; none: its own routing. */
  replayOf?: (model: Model) => RoutingReplay;
}

/** Everything that a client may see of a request. Compared whole: equal requests have equal answers wherever they ran. */
export interface Answer {
  tokens: number[];
  logprobs: number[];
  top: { token: number[]; logprob: number[] }[];
  prompt: { logprob: number[]; top: { token: number[]; logprob: number[] }[] } | null;
  finish: Finish;
  error: { code: string; message: string } | null;
}

interface Open {
  submit: Submit;
  answer: Answer;
  cachedTokens: number;
  resolve: (answer: Answer) => void;
}

const EPOCH = 7;
const linkOptions = { token: '', tls: null };

/** One worker of a cluster that lives in this process: the real engine, exchange and expert server over real links. */
export class InProcessWorker {
  readonly engine: Engine;
  readonly counters: Counters;
  readonly times = new TimeSplit();
  readonly exchange: Exchange;
  readonly server = new ExpertServer();
  readonly traced: TraceRows[] = [];
  /** Of requests that have ended, and of those that asked for it on the way. */
  readonly bills: Traffic[] = [];
  readonly routing: Routing[] = [];
  /** Requests that have not ended, by number. */
  readonly open = new Map<number, Open>();
  cachedTokens = 0;
  /** Of each request, what was said with its tokens: how long it waited for its first step. */
  readonly queuedUs = new Map<number, number[]>();
  listener: Listener | null = null;
  private readonly options: ClusterOptions;
  private readonly index: number;

  constructor(options: ClusterOptions, index: number) {
    this.options = options;
    this.index = index;
    const model = options.models[index];
    this.counters = new Counters(model.moe.length, model.shape.experts);
    const { native, plan, transport, maxBatchRows } = options;
    const { counters, times } = this;
    this.exchange = new Exchange({
      native,
      model,
      plan,
      worker: index,
      epoch: EPOCH,
      maxRows: maxBatchRows,
      rowDeadlineMs: options.rowDeadlineMs,
      counters,
      times,
      dial: ([address], signal) => transport.dial(address, { ...linkOptions, signal }),
    });
    this.engine = new Engine({
      model,
      exchanges: this.exchange.homes,
      connecting: () => this.exchange.connecting,
      counters,
      times,
      visits: new NodeVisits(plan, model.shape.topK),
      maxBatchRows,
      maxSequences: options.maxSequences,
      maxLogitRows: options.maxLogitRows,
      prefixCache: options.prefixCache,
      draftMax: options.draftMax,
      replay: options.replayOf?.(model) ?? null,
      onTokens: (tokens) => this.receive(tokens),
      onTrace: (rows) => this.traced.push(rows),
    });
    this.serve();
  }

  /** From now on others may use this worker's experts. */
  serve(): void {
    const { native, models, maxBatchRows } = this.options;
    const { counters, times } = this;
    const { gateway } = this.exchange;
    this.server.serve({
      native,
      model: models[this.index],
      epoch: EPOCH,
      worker: this.index,
      maxRows: maxBatchRows,
      gateway,
      counters,
      times,
    });
  }

  run(submit: Submit): Promise<Answer> {
    return new Promise((resolve) => {
      const answer: Answer = { tokens: [], logprobs: [], top: [], prompt: null, finish: Finish.none, error: null };
      this.open.set(submit.request, { submit, answer, cachedTokens: 0, resolve });
      this.engine.submit(submit);
    });
  }

  private receive({ request, token, finish, logprob, top, errors, cachedTokens, queuedUs, prompt, traffic, routing }: Tokens): void {
    this.bills.push(...traffic);
    this.routing.push(...routing);
    for (const reading of prompt) {
      const list = reading.top.map((entry) => ({ token: Array.from(entry.token), logprob: Array.from(entry.logprob) }));
      const { answer } = this.open.get(reading.request)!;
      if (answer.prompt !== null) throw new Error(`the prompt of request ${reading.request} was read twice`);
      answer.prompt = { logprob: Array.from(reading.logprob), top: list };
    }
    let withLogprob = 0;
    let withError = 0;
    for (let i = 0; i < request.length; i++) {
      const entry = this.open.get(request[i]);
      if (entry === undefined) throw new Error(`an event for request ${request[i]}, which is not open`);
      const { answer, submit } = entry;
      const hasToken = finish[i] === Finish.none || finish[i] === Finish.stop || finish[i] === Finish.length;
      if (hasToken) {
        answer.tokens.push(token[i]);
        if (submit.wantLogprob) {
          answer.logprobs.push(logprob[withLogprob]);
          answer.top.push({ token: Array.from(top[withLogprob].token), logprob: Array.from(top[withLogprob].logprob) });
          withLogprob++;
        }
      }
      this.cachedTokens += cachedTokens[i];
      this.queuedUs.set(request[i], [...(this.queuedUs.get(request[i]) ?? []), queuedUs[i]]);
      if (finish[i] === Finish.none) continue;
      answer.finish = finish[i] as Finish;
      if (finish[i] === Finish.error) answer.error = errors[withError++];
      this.open.delete(request[i]);
      entry.resolve(answer);
    }
  }
}

export class InProcessCluster {
  readonly workers: InProcessWorker[];
  private readonly options: ClusterOptions;

  private constructor(options: ClusterOptions) {
    this.options = options;
    this.workers = options.models.map((_, index) => new InProcessWorker(options, index));
  }

  static async start(options: ClusterOptions): Promise<InProcessCluster> {
    const cluster = new InProcessCluster(options);
    for (const [index] of cluster.workers.entries()) if (!options.absent?.includes(index)) await cluster.listen(index);
    cluster.announceAll();
    return cluster;
  }

  announceAll(): void {
    const there = this.workers.flatMap(({ listener }, worker) =>
      listener === null ? [] : [{ worker, dataAddresses: [listener.address] }],
    );
    for (const home of this.workers) home.exchange.announce(there);
  }

  run(home: number, submit: Submit): Promise<Answer> {
    return this.workers[home].run(submit);
  }

  /** The worker's experts are gone, as if its process had died; `revive` brings them back at the same address. */
  async kill(worker: number): Promise<void> {
    const { listener } = this.workers[worker];
    this.workers[worker].listener = null;
    await Promise.all([listener?.close(), this.workers[worker].server.close()]);
  }

  async revive(worker: number): Promise<void> {
    this.workers[worker].serve();
    await this.listen(worker);
    this.announceAll();
  }

  async close(): Promise<void> {
    for (const { exchange } of this.workers) await exchange.close();
    for (const { engine } of this.workers) engine.abandonAll();
    for (const { engine } of this.workers) await engine.drain(new SwitchyardError('shutting_down', 'the test is over'));
    for (const [index] of this.workers.entries()) await this.kill(index);
    for (const model of this.options.models) model.close();
  }

  private async listen(index: number): Promise<void> {
    const worker = this.workers[index];
    worker.listener = await this.options.transport.listen(this.options.addressOf(index), linkOptions, (link: Link) =>
      worker.server.accept(link),
    );
  }
}

let lastRequest = 0;

/** A greedy request of `prompt`, changed by `overrides`. */
export function submitOf(prompt: ArrayLike<number>, overrides: Partial<Submit> = {}): Submit {
  return {
    request: ++lastRequest,
    prompt,
    maxTokens: 8,
    sampling: {
      temperature: 0,
      topP: 1,
      topK: 0,
      minP: 0,
      repetitionPenalty: 1,
      presencePenalty: 0,
      frequencyPenalty: 0,
      seed: 0n,
      biasToken: [],
      biasValue: [],
    },
    stopTokens: [],
    logprobs: 0,
    wantLogprob: false,
    promptLogprobs: false,
    tenant: '',
    domain: '',
    minTokens: 0,
    reportRouting: false,
    replaySequence: 0,
    prediction: [],
    ...overrides,
  };
}
