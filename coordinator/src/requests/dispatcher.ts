import {
  type ErrorCode,
  errorCatalogue,
  Finish,
  type Routing,
  type Stats,
  type Submit,
  SwitchyardError,
  type Tokens,
  type Traffic,
} from '@switchyard/proto';
import type { Membership, Place } from '../membership/membership.ts';
import type { RequestMetrics } from '../metrics/request-metrics.ts';
import type { Answer, AnswerListener } from './answer.ts';
import {
  chooseHome,
  chooseMove,
  type HomeCandidate,
  type HomeFilling,
  type HomePreference,
  type HomeReason,
  type HomeRules,
  type HomeSlack,
} from './home-choice.ts';
import { type HomeStatistics, type RequestKind, STRONG_PREFIX } from './home-statistics.ts';
import { PrefixMemory, PrefixPoints } from './prefix-memory.ts';
import { Refusals } from './refusals.ts';
import { addTraffic, checkedRouting, checkedTraffic, noTraffic, type TrafficSum } from './traffic.ts';
import { type QueueLimits, WaitingAnswers } from './waiting-answers.ts';
import { type Running, WorkerLoads } from './worker-loads.ts';

interface DispatcherLimits extends QueueLimits {
  /** Sequences in the batch of one worker; what it has beyond them waits there. */
  batchMax: number;
  /** Of those at most; the others wait here. */
  beyondBatchMax: number;
}

export interface HomePolicy {
  /** `routing`: by what is known of a request's kind; `load`: by load alone, but for prompts whose beginning a worker has computed. */
  choice: 'routing' | 'load';
  slack: HomeSlack;
  filling: HomeFilling;
  /** A long prompt of which nothing is known moves after its first chunk to a node that would serve so much more of its visits. 1: never. */
  moveGain: number;
  /** Such a prompt has at least so many tokens. */
  movePromptTokensMin: number;
}

/** The slack grows with the load: with many sequences everywhere, four more are nothing. */
const SLACK_OF_MEAN_LOAD = 0.25;

/**
 * Brings answers to workers and tokens back to answers. At most `runningMax` are with workers, `waitingMax` wait, tenants in turn, more are refused: a client is better
 * told at once. What no worker has room for, as far as that can be told from here, waits too.
 */
export class Dispatcher {
  readonly #membership: Membership;
  readonly #limits: DispatcherLimits;
  readonly #metrics: RequestMetrics;
  /** With a worker, until that worker says that it is done, whatever became of the client. */
  readonly #running = new Map<number, Running>();
  readonly #waiting: WaitingAnswers;
  readonly #prefixes = new PrefixMemory();
  readonly #points = new PrefixPoints();
  readonly #statistics: HomeStatistics;
  readonly #policy: HomePolicy;
  readonly #nodes: number;
  readonly #traffic: TrafficSum = noTraffic();
  readonly #choices = new Map<HomeReason, number>();
  readonly #loads: WorkerLoads;
  readonly #refusals: Refusals;
  readonly #touched = new Set<AnswerListener>();
  #flushing = false;
  #nextRequest = 1;
  #onIdle: (() => void) | null = null;

  constructor(
    membership: Membership,
    dispatcherLimits: DispatcherLimits,
    metrics: RequestMetrics,
    homes: { policy: HomePolicy; statistics: HomeStatistics },
  ) {
    this.#membership = membership;
    this.#policy = homes.policy;
    this.#statistics = homes.statistics;
    this.#nodes = 1 + Math.max(...membership.places.map(({ node }) => node));
    this.#limits = dispatcherLimits;
    this.#waiting = new WaitingAnswers(dispatcherLimits);
    this.#metrics = metrics;
    this.#loads = new WorkerLoads(membership.places.length, dispatcherLimits.batchMax, dispatcherLimits.beyondBatchMax);
    this.#refusals = new Refusals(membership.places.length);
  }

  get running(): number {
    return this.#running.size;
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  loadOf(worker: number): number {
    return this.#loads.of(worker).sequences;
  }

  /** What all requests that have ended cost the network. */
  get traffic(): Readonly<TrafficSum> {
    return this.#traffic;
  }

  get knownKinds(): HomeStatistics['sizes'] {
    return this.#statistics.sizes;
  }

  /** How homes were chosen, by reason. */
  get choices(): ReadonlyMap<HomeReason, number> {
    return this.#choices;
  }

  /**
   * Longest time that a worker with work has shown no sign of it: no step by its own account, no tokens, no new work. -1 when none has work.
   */
  stepAgeMs(nowMs: number): number {
    let longest = -1;
    for (const { worker, stats, statsAtMs } of this.#membership.places) {
      const { sequences, busySinceMs, tokensAtMs } = this.#loads.of(worker);
      if (sequences === 0) continue;
      const stepAtMs = stats === null ? 0 : statsAtMs - stats.lastStepAgeMs;
      longest = Math.max(longest, nowMs - Math.max(stepAtMs, busySinceMs, tokensAtMs));
    }
    return longest;
  }

  /** Takes all of them, which are one tenant's, or none. @throws SwitchyardError `queue_full` */
  admit(answers: readonly Answer[]): void {
    this.#waiting.take(answers, this.#running.size);
    this.#pump();
    this.#flush();
  }

  /** The client has gone: nothing more is delivered. */
  cancel(answer: Answer): void {
    answer.closed = true;
    this.#waiting.remove(answer);
    const running = this.#running.get(answer.request);
    if (running !== undefined) this.#membership.cancel(running.place, answer.request);
  }

  /** Once a second. With a full cache some wait on the worker although its batch has room; which ones, it chooses: how many is all that counts here. */
  onStats(place: Place, { waiting }: Stats): void {
    this.#loads.saysWaiting(place.worker, waiting);
    this.#pump();
    this.#flush();
  }

  /** A worker's stream takes prompts again. */
  onDrained(): void {
    this.#pump();
    this.#flush();
  }

  /** What a worker computes under this number. */
  answerOf(worker: number, request: number): Answer | null {
    const entry = this.#running.get(request);
    return entry?.place.worker === worker ? entry.answer : null;
  }

  /** One step of one worker. */
  onTokens(place: Place, tokens: Tokens): void {
    const now = performance.now();
    this.#loads.gaveTokens(place.worker, now);
    for (const routing of tokens.routing) this.#reconsider(place, routing);
    for (const prompt of tokens.prompt) {
      const entry = this.#running.get(prompt.request);
      if (entry?.place === place) attempt(entry.answer, () => entry.answer.acceptPrompt(prompt));
    }
    let logprobAt = 0;
    let topAt = 0;
    let errorAt = 0;
    let trafficAt = 0;
    const refused: Answer[] = [];
    for (let i = 0; i < tokens.request.length; i++) {
      const request = tokens.request[i];
      const finish = tokens.finish[i];
      const error = finish === Finish.error ? tokens.errors[errorAt++] : null;
      const bill = finish === Finish.none ? null : tokens.traffic[trafficAt++];
      const entry = this.#running.get(request);
      // Unknown: refused by the worker after it was lost and found, say.
      if (entry === undefined || entry.place !== place) continue;
      const { answer } = entry;
      if (bill !== null) this.#settle(entry, bill);
      const carriesToken = finish === Finish.none || finish === Finish.stop || finish === Finish.length;
      // Columns hold entries for every token whose request wants them, also of an answer that has ended here.
      const reported = carriesToken && answer.spec.wantLogprob;
      const logprob = reported ? tokens.logprob[logprobAt++] : null;
      const top = reported ? (tokens.top[topAt++] ?? null) : null;
      if (entry.moved) {
        if (finish !== Finish.none) this.#release(request);
        continue;
      }
      if (error !== null && this.#refusals.note(place.worker, error.code, now) && this.#mayGoElsewhere(entry)) {
        this.#release(request);
        refused.push(answer);
        continue;
      }
      if (tokens.cachedTokens[i] > 0) answer.cachedTokens = tokens.cachedTokens[i];
      if (!answer.closed) {
        this.#touched.add(answer.listener);
        if (carriesToken && !answer.awaitsBill) {
          this.#loads.promptDone(entry);
          if (answer.firstTokenMs === 0) {
            answer.batchedMs = Math.min(now, entry.submittedMs + (tokens.queuedUs[i] ?? 0) / 1000);
            this.#refusals.answers(place.worker);
          }
          this.#metrics.onToken(answer, now);
        }
        attempt(answer, () => {
          if (answer.awaitsBill) {
            if (finish !== Finish.none) answer.settle();
          } else if (carriesToken) {
            if (answer.accept(tokens.token[i], finish, logprob, top)) this.#membership.cancel(place, request);
          } else if (error !== null) answer.fail(workerError(error));
          else if (finish === Finish.stopWithoutToken) answer.acceptEnd();
          else answer.fail(new SwitchyardError('cancelled', `worker ${place.name} cancelled the sequence`));
        });
        if (answer.closed) this.#metrics.onEnd(answer, now);
      }
      if (finish !== Finish.none) this.#release(request);
    }
    this.#giveOn(refused);
    this.#pump();
    this.#flush();
  }

  /** Everything that ran there fails, but for what it had not begun to answer and another can; the rest goes on. */
  onLost(place: Place, error: SwitchyardError): void {
    this.#prefixes.forget(place.worker);
    this.#refusals.forget(place.worker);
    const unbegun: Answer[] = [];
    for (const [request, entry] of this.#running) {
      if (entry.place !== place) continue;
      this.#release(request);
      if (entry.answer.closed || entry.moved) continue;
      if (this.#mayGoElsewhere(entry)) {
        unbegun.push(entry.answer);
        continue;
      }
      this.#touched.add(entry.answer.listener);
      attempt(entry.answer, () => entry.answer.fail(error));
      this.#metrics.onEnd(entry.answer, performance.now());
    }
    this.#giveOn(unbegun);
    this.#pump();
    this.#flush();
  }

  /** Resolves when nothing runs and nothing waits. */
  idle(): Promise<void> {
    if (this.#running.size === 0 && this.#waiting.length === 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.#onIdle = resolve;
    });
  }

  /** Ends everything at once. */
  failAll(error: SwitchyardError): void {
    const answers = [...this.#waiting.clear(), ...[...this.#running.values()].map(({ answer }) => answer)];
    for (const answer of answers) {
      if (answer.closed) continue;
      this.#touched.add(answer.listener);
      attempt(answer, () => answer.fail(error));
      this.cancel(answer);
    }
    this.#flush();
  }

  #pump(): void {
    while (this.#waiting.length > 0 && this.#running.size < this.#limits.runningMax) {
      const takers = this.#membership.uncovered > 0 ? [] : this.#takers();
      const candidates = takers.filter((place) => this.#hasRoom(place)).map((place) => this.#candidate(place));
      if (takers.length > 0 && candidates.length === 0) break;
      const answer = this.#waiting.shift()!;
      this.#touched.add(answer.listener);
      if (candidates.length > 0) this.#submit(answer, this.#home(answer, candidates));
      else attempt(answer, () => answer.fail(new SwitchyardError('not_ready', 'no worker can serve at the moment')));
    }
    if (this.#running.size === 0 && this.#waiting.length === 0) {
      this.#onIdle?.();
      this.#onIdle = null;
    }
  }

  #home(answer: Answer, candidates: readonly HomeCandidate[]): Place {
    const { tenant, prompt } = answer.spec;
    answer.points = this.#points.of(tenant, prompt);
    answer.home = chooseHome(candidates, this.#preferences(kindOf(answer)), this.#rules(candidates, answer));
    return this.#membership.places[answer.home.worker];
  }

  /** Who takes sequences: those that have refused or failed one just now are asked where nobody else is left. */
  #takers(): Place[] {
    const now = performance.now();
    const staying = this.#membership.places.filter(({ state, worker }) => state === 'serving' && !this.#refusals.isLeaving(worker));
    const willing = staying.filter(({ worker }) => !this.#refusals.isResting(worker, now));
    return willing.length > 0 ? willing : staying;
  }

  #hasRoom(place: Place): boolean {
    return this.#loads.hasRoom(place.worker) && this.#membership.keepsUp(place);
  }

  #candidate({ worker, node, memory, local, stats }: Place): HomeCandidate {
    const { sequences, promptTokens, lastChosen } = this.#loads.of(worker);
    const cacheUsed = stats === null || stats.kvBlocks === 0 ? 0 : stats.kvBlocksUsed / stats.kvBlocks;
    return { worker, node, memory, local, load: sequences, promptTokens, cacheUsed, lastChosen };
  }

  /** What its worker has refused, or was lost with, another may do, once: nothing of it has reached the client yet. */
  #mayGoElsewhere({ answer, place }: Running): boolean {
    if (answer.givenOn || answer.closed || answer.completionTokens > 0 || this.#membership.uncovered > 0) return false;
    return this.#takers().some((other) => other !== place);
  }

  /** They have waited longest. Their clients may have gone since, with another of their choices. */
  #giveOn(answers: readonly Answer[]): void {
    for (const answer of answers) answer.givenOn = true;
    for (const answer of answers.filter(({ closed }) => !closed).reverse()) this.#waiting.unshift(answer);
  }

  /** A cache that holds much of the prompt counts most, one that holds little counts least. */
  #preferences(kind: RequestKind): HomePreference[] {
    const preferences = this.#policy.choice === 'routing' ? this.#statistics.preferences(kind) : [];
    const cached = this.#prefixes.find(kind.points);
    if (cached === null) return preferences;
    const sticky: HomePreference = { kind: 'worker', worker: cached.worker, reason: 'prefix' };
    return cached.tokens >= STRONG_PREFIX * kind.promptTokens ? [sticky, ...preferences] : [...preferences, sticky];
  }

  #rules(candidates: readonly HomeCandidate[], { spec }: Answer): HomeRules {
    const { slack, filling } = this.#policy;
    const mean = candidates.reduce((sum, { load }) => sum + load, 0) / candidates.length;
    const sequences = Math.max(slack.sequences, Math.floor(SLACK_OF_MEAN_LOAD * mean));
    return { slack: { ...slack, sequences }, filling, promptTokens: spec.prompt.length, maxTokens: spec.maxTokens };
  }

  /** Moves a sequence whose first chunk tells that another node holds much more of what it needs. Nothing of it has reached the client yet. */
  #reconsider(place: Place, reported: Routing): void {
    const entry = this.#running.get(reported.request);
    const routing = checkedRouting(reported, this.#nodes);
    if (entry === undefined || entry.place !== place || routing === null) return;
    const { answer, promptTokens } = entry;
    const { uncovered, places } = this.#membership;
    if (answer.closed || answer.home === null || promptTokens === 0 || answer.movedFrom !== null || uncovered > 0) return;
    const others = this.#takers().filter((other) => other !== place && this.#hasRoom(other));
    const here = this.#candidate(place);
    const candidates = [
      { ...here, load: here.load - 1, promptTokens: here.promptTokens - promptTokens },
      ...others.map((other) => this.#candidate(other)),
    ];
    const share = Float64Array.from(routing.held, (held) => held / routing.sampled);
    const home = chooseMove(candidates, place.worker, share, this.#policy.moveGain, this.#rules(candidates, answer));
    if (home === null) return;
    entry.moved = true;
    this.#loads.promptDone(entry);
    this.#membership.cancel(place, reported.request);
    answer.movedFrom = answer.home;
    answer.home = home;
    this.#touched.add(answer.listener);
    this.#submit(answer, places[home.worker]);
  }

  #submit(answer: Answer, place: Place): void {
    const { spec } = answer;
    answer.request = this.#nextRequest++;
    const submit: Submit = {
      request: answer.request,
      prompt: spec.prompt,
      maxTokens: spec.maxTokens,
      sampling: spec.sampling,
      stopTokens: spec.stopTokens,
      logprobs: spec.topLogprobs,
      wantLogprob: spec.wantLogprob,
      promptLogprobs: spec.promptLogprobs,
      tenant: spec.tenant,
      domain: spec.domain,
      minTokens: spec.minTokens,
      reportRouting: this.#mayMove(answer),
      replaySequence: spec.replaySequence === null ? 0 : spec.replaySequence + 1,
      prediction: spec.prediction,
    };
    try {
      this.#membership.submit(place, submit);
    } catch (error) {
      if ((error as SwitchyardError).code === 'link_closed') {
        // Its loss is about to be told.
        this.#refusals.leaves(place.worker);
        this.#waiting.unshift(answer);
      } else attempt(answer, () => answer.fail(error as SwitchyardError));
      return;
    }
    const entry = { answer, place, promptTokens: spec.prompt.length, submittedMs: performance.now(), moved: false };
    this.#running.set(answer.request, entry);
    this.#loads.add(entry);
    this.#prefixes.remember(answer.points, place.worker);
    const { reason } = answer.home!;
    this.#choices.set(reason, (this.#choices.get(reason) ?? 0) + 1);
    this.#metrics.onHome(reason);
  }

  #mayMove({ home, movedFrom, spec }: Answer): boolean {
    const { choice, moveGain, movePromptTokensMin } = this.#policy;
    return (
      choice === 'routing' &&
      moveGain < 1 &&
      this.#nodes > 1 &&
      movedFrom === null &&
      home!.reason === 'least-loaded' && // A prompt as long as that fills no home.
      home!.expectedShare === null &&
      spec.prompt.length >= movePromptTokensMin
    );
  }

  /** A sequence has ended on a worker, which says what it cost and what it chose. */
  #settle({ answer, moved }: Running, bill: Traffic | undefined): void {
    const traffic = checkedTraffic(bill, this.#nodes);
    if (traffic !== null) {
      addTraffic(answer.traffic, traffic);
      addTraffic(this.#traffic, traffic);
      this.#metrics.onTraffic(traffic);
    }
    const routing = checkedRouting(bill?.routing, this.#nodes);
    if (routing !== null && !moved && this.#policy.choice === 'routing') this.#statistics.learn(kindOf(answer), routing);
  }

  #release(request: number): void {
    const entry = this.#running.get(request);
    if (entry === undefined) return;
    this.#running.delete(request);
    this.#loads.remove(entry);
  }

  /**
   * Once the messages that have arrived by now are taken in: what several of them bring for a client is written together, and a write costs more than all else
   * about a token. With nothing else to do that is at once.
   */
  #flush(): void {
    if (this.#flushing || this.#touched.size === 0) return;
    this.#flushing = true;
    setImmediate(() => {
      this.#flushing = false;
      for (const listener of this.#touched) attempt({ listener }, () => listener.flush());
      this.#touched.clear();
    });
  }
}

/** What goes wrong with one answer, or with whoever takes it, is that request's alone: one message brings those of many. */
function attempt({ listener }: Pick<Answer, 'listener'>, work: () => void): void {
  try {
    work();
  } catch (error) {
    listener.onBroken(error);
  }
}

function kindOf({ spec, points }: Answer): RequestKind {
  return { tenant: spec.tenant, domain: spec.domain, points, promptTokens: spec.prompt.length };
}

/** Workers name errors from the catalogue; anything else is ours to explain. */
function workerError({ code, message }: { code: string; message: string }): SwitchyardError {
  return Object.hasOwn(errorCatalogue, code)
    ? new SwitchyardError(code as ErrorCode, message)
    : new SwitchyardError('internal', `${code}: ${message}`);
}
