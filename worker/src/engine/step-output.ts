import {
  Finish,
  type PromptLogprobs,
  type RequestError,
  type Routing,
  type SwitchyardError,
  type Tokens,
  type TopLogprobs,
  type Traffic,
} from '@switchyard/proto';
import { routingOf } from './node-visits.ts';
import { SequenceTraffic } from './sequence-traffic.ts';

/** One produced token and what its client asked to know about it. */
export interface TokenEvent {
  request: number;
  token: number;
  finish: Finish;
  cachedTokens: number;
  queuedUs: number;
  /** Null when the request wants no logprobs. */
  logprob: number | null;
  top: TopLogprobs | null;
  /** Of its sequence; sent when this is the end of it. */
  traffic: SequenceTraffic;
}

/** Collects what steps produce as the columns of a `Tokens` message. */
export class StepOutput {
  private request: number[] = [];
  private token: number[] = [];
  private finish: number[] = [];
  private logprob: number[] = [];
  private top: TopLogprobs[] = [];
  private errors: RequestError[] = [];
  private cachedTokens: number[] = [];
  private prompt: PromptLogprobs[] = [];
  private traffic: Traffic[] = [];
  private routing: Routing[] = [];
  private queuedUs: number[] = [];
  /** True when a client is waiting for something else than the next of many tokens: its first, or an end. */
  urgent = false;

  get empty(): boolean {
    return this.request.length === 0 && this.prompt.length === 0 && this.routing.length === 0;
  }

  addToken(event: TokenEvent, first: boolean): void {
    this.addEntry(event.request, event.token, event.finish, event.cachedTokens, event.queuedUs, event.traffic);
    if (event.logprob !== null) this.logprob.push(event.logprob);
    if (event.top !== null) this.top.push(event.top);
    if (first || event.finish !== Finish.none) this.urgent = true;
  }

  addPrompt(prompt: PromptLogprobs): void {
    this.prompt.push(prompt);
    this.urgent = true;
  }

  /** Somebody decides by it where the sequence goes on. */
  addRouting(routing: Routing): void {
    this.routing.push(routing);
    this.urgent = true;
  }

  /** An end without a token: cancelled, or nothing to produce. Carries no logprob. */
  addEnd(request: number, finish: Finish, cachedTokens: number, traffic: SequenceTraffic): void {
    this.addEntry(request, 0, finish, cachedTokens, 0, traffic);
    this.urgent = true;
  }

  /** @param traffic of the sequence; one that was refused has none */
  addError(request: number, error: SwitchyardError, traffic = new SequenceTraffic()): void {
    this.addEntry(request, 0, Finish.error, 0, 0, traffic);
    this.errors.push({ code: error.code, message: error.message });
    this.urgent = true;
  }

  /** The message so far; collecting begins anew. */
  take(): Tokens {
    const tokens: Tokens = {
      request: this.request,
      token: this.token,
      finish: this.finish,
      logprob: this.logprob,
      top: this.top,
      errors: this.errors,
      cachedTokens: this.cachedTokens,
      prompt: this.prompt,
      traffic: this.traffic,
      routing: this.routing,
      queuedUs: this.queuedUs,
    };
    this.request = [];
    this.token = [];
    this.finish = [];
    this.logprob = [];
    this.top = [];
    this.errors = [];
    this.cachedTokens = [];
    this.prompt = [];
    this.traffic = [];
    this.routing = [];
    this.queuedUs = [];
    this.urgent = false;
    return tokens;
  }

  private addEntry(request: number, token: number, finish: Finish, cachedTokens: number, queuedUs: number, traffic: SequenceTraffic): void {
    this.request.push(request);
    this.token.push(token);
    this.finish.push(finish);
    this.cachedTokens.push(cachedTokens);
    this.queuedUs.push(queuedUs);
    if (finish !== Finish.none) this.traffic.push(billOf(request, traffic));
  }
}

function billOf(request: number, traffic: SequenceTraffic): Traffic {
  const { rows, remoteNodes, visits, homeVisits, interNodeBytes, intraNodeBytes } = traffic;
  return { rows, remoteNodes, visits, homeVisits, interNodeBytes, intraNodeBytes, routing: routingOf(request, traffic) };
}
