import { Finish, type PromptLogprobs, type RequestError, type SwitchyardError, type Tokens, type TopLogprobs } from '@switchyard/proto';

/** One produced token and what its client asked to know about it. */
export interface TokenEvent {
  request: number;
  token: number;
  finish: Finish;
  cachedTokens: number;
  /** Null when the request wants no logprobs. */
  logprob: number | null;
  top: TopLogprobs | null;
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
  /** True when a client is waiting for something else than the next of many tokens: its first, or an end. */
  urgent = false;

  get empty(): boolean {
    return this.request.length === 0 && this.prompt.length === 0;
  }

  addToken(event: TokenEvent, first: boolean): void {
    this.addEntry(event.request, event.token, event.finish, event.cachedTokens);
    if (event.logprob !== null) this.logprob.push(event.logprob);
    if (event.top !== null) this.top.push(event.top);
    if (first || event.finish !== Finish.none) this.urgent = true;
  }

  addPrompt(prompt: PromptLogprobs): void {
    this.prompt.push(prompt);
    this.urgent = true;
  }

  /** An end without a token: cancelled, or nothing to produce. Carries no logprob. */
  addEnd(request: number, finish: Finish, cachedTokens: number): void {
    this.addEntry(request, 0, finish, cachedTokens);
    this.urgent = true;
  }

  addError(request: number, error: SwitchyardError): void {
    this.addEntry(request, 0, Finish.error, 0);
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
    };
    this.request = [];
    this.token = [];
    this.finish = [];
    this.logprob = [];
    this.top = [];
    this.errors = [];
    this.cachedTokens = [];
    this.prompt = [];
    this.urgent = false;
    return tokens;
  }

  private addEntry(request: number, token: number, finish: Finish, cachedTokens: number): void {
    this.request.push(request);
    this.token.push(token);
    this.finish.push(finish);
    this.cachedTokens.push(cachedTokens);
  }
}
