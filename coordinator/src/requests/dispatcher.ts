import { type ErrorCode, errorCatalogue, Finish, type Submit, SwitchyardError, type Tokens } from '@switchyard/proto';
import type { Membership, Place } from '../membership/membership.ts';
import type { RequestMetrics } from '../metrics/request-metrics.ts';
import type { Answer, AnswerListener } from './answer.ts';
import { chooseHome, type HomePreference } from './home-choice.ts';
import { PrefixMemory } from './prefix-memory.ts';

export interface DispatcherLimits {
  runningMax: number;
  waitingMax: number;
}

/** A home with the beginning of the prompt in its cache may have so many sequences more than the least loaded one. */
const PREFIX_SLACK = 4;

/**
 * Brings answers to workers and tokens back to answers. At most `runningMax` are with workers, `waitingMax` wait in order, more are refused: a client is better
 * told at once.
 */
export class Dispatcher {
  readonly #membership: Membership;
  readonly #limits: DispatcherLimits;
  readonly #metrics: RequestMetrics;
  /** With a worker, until that worker says that it is done, whatever became of the client. */
  readonly #running = new Map<number, { answer: Answer; place: Place }>();
  readonly #waiting: Answer[] = [];
  readonly #prefixes = new PrefixMemory();
  /** Sequences per worker, and when each was last chosen. */
  readonly #load: number[];
  readonly #lastChosen: number[];
  /** When each last got work after none, and last gave tokens; performance.now. */
  readonly #busySinceMs: number[];
  readonly #tokensAtMs: number[];
  readonly #touched = new Set<AnswerListener>();
  #flushing = false;
  #nextRequest = 1;
  #onIdle: (() => void) | null = null;

  constructor(membership: Membership, dispatcherLimits: DispatcherLimits, metrics: RequestMetrics) {
    this.#membership = membership;
    this.#limits = dispatcherLimits;
    this.#metrics = metrics;
    this.#load = membership.places.map(() => 0);
    this.#lastChosen = membership.places.map(() => 0);
    this.#busySinceMs = membership.places.map(() => 0);
    this.#tokensAtMs = membership.places.map(() => 0);
  }

  get running(): number {
    return this.#running.size;
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  loadOf(worker: number): number {
    return this.#load[worker];
  }

  /**
   * Longest time that a worker with work has shown no sign of it: no step by its own account, no tokens, no new work. -1 when none has work.
   */
  stepAgeMs(nowMs: number): number {
    let longest = -1;
    for (const { worker, stats, statsAtMs } of this.#membership.places) {
      if (this.#load[worker] === 0) continue;
      const stepAtMs = stats === null ? 0 : statsAtMs - stats.lastStepAgeMs;
      longest = Math.max(longest, nowMs - Math.max(stepAtMs, this.#busySinceMs[worker], this.#tokensAtMs[worker]));
    }
    return longest;
  }

  /** Takes all of them or none. @throws SwitchyardError `queue_full` */
  admit(answers: readonly Answer[]): void {
    const room = this.#limits.runningMax + this.#limits.waitingMax - this.#running.size - this.#waiting.length;
    if (answers.length > room)
      throw new SwitchyardError(
        'queue_full',
        `${this.#running.size} sequences run and ${this.#waiting.length} wait; with ${answers.length} more the limits of ${this.#limits.runningMax} and ${this.#limits.waitingMax} are exceeded`,
      );
    const now = performance.now();
    for (const answer of answers) answer.arrivedMs = now;
    this.#waiting.push(...answers);
    this.#pump();
    this.#flush();
  }

  /** The client has gone: nothing more is delivered. */
  cancel(answer: Answer): void {
    answer.closed = true;
    const waiting = this.#waiting.indexOf(answer);
    if (waiting >= 0) this.#waiting.splice(waiting, 1);
    const running = this.#running.get(answer.request);
    if (running !== undefined) this.#membership.cancel(running.place, answer.request);
  }

  answerOf(request: number): Answer | null {
    return this.#running.get(request)?.answer ?? null;
  }

  /** One step of one worker. */
  onTokens(place: Place, tokens: Tokens): void {
    const now = performance.now();
    this.#tokensAtMs[place.worker] = now;
    for (const prompt of tokens.prompt) this.#running.get(prompt.request)?.answer.acceptPrompt(prompt);
    let logprobAt = 0;
    let topAt = 0;
    let errorAt = 0;
    for (let i = 0; i < tokens.request.length; i++) {
      const request = tokens.request[i];
      const finish = tokens.finish[i];
      const error = finish === Finish.error ? tokens.errors[errorAt++] : null;
      const entry = this.#running.get(request);
      // Unknown: refused by the worker after it was lost and found, say.
      if (entry === undefined || entry.place !== place) continue;
      const { answer } = entry;
      const carriesToken = finish === Finish.none || finish === Finish.stop || finish === Finish.length;
      // Columns hold entries for every token whose request wants them, also of an answer that has ended here.
      const reported = carriesToken && answer.spec.wantLogprob;
      const logprob = reported ? tokens.logprob[logprobAt++] : null;
      const top = reported ? (tokens.top[topAt++] ?? null) : null;
      if (tokens.cachedTokens[i] > 0) answer.cachedTokens = tokens.cachedTokens[i];
      if (!answer.closed) {
        this.#touched.add(answer.listener);
        if (carriesToken) {
          this.#metrics.onToken(answer, now);
          if (answer.accept(tokens.token[i], finish, logprob, top)) this.#membership.cancel(place, request);
        } else if (error !== null) answer.fail(workerError(error));
        else if (finish === Finish.stopWithoutToken) answer.acceptEnd();
        else answer.fail(new SwitchyardError('cancelled', `worker ${place.name} cancelled the sequence`));
        if (answer.closed) this.#metrics.onEnd(answer, now);
      }
      if (finish !== Finish.none) this.#release(request, place);
    }
    this.#pump();
    this.#flush();
  }

  /** Everything that ran there fails; the rest goes on. */
  onLost(place: Place, error: SwitchyardError): void {
    this.#prefixes.forget(place.worker);
    for (const [request, entry] of this.#running) {
      if (entry.place !== place) continue;
      this.#release(request, place);
      if (entry.answer.closed) continue;
      this.#touched.add(entry.answer.listener);
      entry.answer.fail(error);
      this.#metrics.onEnd(entry.answer, performance.now());
    }
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
    const answers = [...this.#waiting.splice(0), ...[...this.#running.values()].map(({ answer }) => answer)];
    for (const answer of answers) {
      if (answer.closed) continue;
      this.#touched.add(answer.listener);
      answer.fail(error);
      this.cancel(answer);
    }
    this.#flush();
  }

  #pump(): void {
    while (this.#waiting.length > 0 && this.#running.size < this.#limits.runningMax) {
      const answer = this.#waiting.shift()!;
      this.#touched.add(answer.listener);
      const place = this.#home(answer);
      if (place === null) answer.fail(new SwitchyardError('not_ready', 'no worker can serve at the moment'));
      else this.#submit(answer, place);
    }
    if (this.#running.size === 0 && this.#waiting.length === 0) {
      this.#onIdle?.();
      this.#onIdle = null;
    }
  }

  #home(answer: Answer): Place | null {
    const { places, uncovered } = this.#membership;
    const serving = places.filter(({ state }) => state === 'serving');
    if (uncovered > 0 || serving.length === 0) return null;
    const { tenant, prompt } = answer.spec;
    const preferences: HomePreference[] = [];
    const known = this.#prefixes.find(tenant, prompt);
    if (known !== null) preferences.push({ worker: known, reason: 'prefix', slack: PREFIX_SLACK });
    const candidates = serving.map(({ worker }) => ({ worker, load: this.#load[worker], lastChosen: this.#lastChosen[worker] }));
    answer.home = chooseHome(candidates, preferences);
    return places[answer.home.worker];
  }

  #submit(answer: Answer, place: Place): void {
    const { spec } = answer;
    answer.request = this.#nextRequest++;
    answer.submittedMs = performance.now();
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
      ignoreEos: spec.ignoreEos,
      minTokens: spec.minTokens,
      traceId: spec.traceId,
      replaySequence: spec.replaySequence === null ? 0 : spec.replaySequence + 1,
    };
    try {
      this.#membership.submit(place, submit);
    } catch (error) {
      answer.fail(error as SwitchyardError);
      return;
    }
    this.#running.set(answer.request, { answer, place });
    if (this.#load[place.worker]++ === 0) this.#busySinceMs[place.worker] = answer.submittedMs;
    this.#lastChosen[place.worker] = answer.request;
    this.#prefixes.remember(spec.tenant, spec.prompt, place.worker);
    this.#metrics.onSubmit(answer);
  }

  #release(request: number, place: Place): void {
    if (this.#running.delete(request)) this.#load[place.worker]--;
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
      for (const listener of this.#touched) listener.flush();
      this.#touched.clear();
    });
  }
}

/** Workers name errors from the catalogue; anything else is ours to explain. */
function workerError({ code, message }: { code: string; message: string }): SwitchyardError {
  return Object.hasOwn(errorCatalogue, code)
    ? new SwitchyardError(code as ErrorCode, message)
    : new SwitchyardError('internal', `${code}: ${message}`);
}
