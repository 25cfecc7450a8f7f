import type { ServerResponse } from 'node:http';
import { SwitchyardError } from '@switchyard/proto';
import { bounds } from '../bounds.ts';
import type { Answer, FinishReason } from '../requests/answer.ts';
import { type AnswerFormat, aboutChars, isShort, usageJson } from './answer-format.ts';
import { AnswerSet, type AnswerSetBase } from './answer-set.ts';
import { errorReply } from './api-error.ts';
import { HeldText } from './held-text.ts';
import { PacedWriter } from './paced-writer.ts';
import { sendError } from './reply.ts';
import type { StreamOptions } from './stream-fields.ts';

const DONE = 'data: [DONE]\n\n';

/**
 * Server-sent events. The head goes out with the first of them, so that what fails before is an ordinary HTTP error; what fails later is an error event. Events
 * of one step are written together. A reader who is slower than the answer has it held for it up to a bound, and is then cut off.
 */
export class StreamedResponse extends AnswerSet {
  readonly #response: ServerResponse;
  readonly #writer: PacedWriter;
  readonly #format: AnswerFormat;
  readonly #options: StreamOptions;
  readonly #opened: boolean[] = [];
  readonly #ping: NodeJS.Timeout;
  /** Events not yet written: those that the reader is being given, and those that came since. */
  #going = new HeldText();
  #held = new HeldText();
  #goingOn = false;
  #quiet = true;

  constructor(response: ServerResponse, format: AnswerFormat, options: StreamOptions & { pingMs: number }, base: AnswerSetBase) {
    super(base);
    this.#response = response;
    this.#writer = new PacedWriter(response, () => this.#goOnSoon());
    this.#format = format;
    this.#options = options;
    this.#ping = setInterval(() => this.#keepOpen(), options.pingMs);
    response.on('close', () => this.#closed());
  }

  protected override piece(answer: Answer, text: string): void {
    const { index, reports, ids } = answer;
    this.#open(index);
    const piece = { index, text, reports, ids };
    const chunk = this.#format.chunk(piece, this.#usageField());
    if (isShort(piece)) for (const part of chunk) this.#held.add(part);
    else this.#held.addLater(chunk, aboutChars(this.#format, reports));
    if (reports.length > 0) answer.reports = [];
    if (ids.length > 0) answer.ids = [];
  }

  protected override end(answer: Answer, reason: FinishReason): void {
    this.#open(answer.index);
    this.#held.add(this.#format.closing(answer.index, reason, this.#usageField(), this.bill(answer)));
  }

  protected override complete(): void {
    this.#held.add((this.#options.includeUsage ? this.#format.usageChunk(this.usage()) : '') + DONE);
  }

  protected override failed(error: SwitchyardError): void {
    if (!this.#response.headersSent && this.#held.empty) {
      sendError(this.#response, error);
      return;
    }
    this.#held.add(`data: ${errorReply(error).body}\n\n${DONE}`);
  }

  override flush(): void {
    if (!this.#written && !this.#writer.busy && !this.#goingOn) this.#write();
    this.#account();
    // What is not text yet comes all at once, however fast the reader is, and is made no faster than others are served: it counts in the lease alone.
    const unread = this.#held.textChars;
    if (unread > bounds.heldBytesMax) this.#cutOff(`the client has left ${unread} bytes unread; the limit is ${bounds.heldBytesMax}`);
    if (this.over && this.#written && !this.#response.writableEnded) this.#writer.end();
  }

  /** With those of all others, events that are held may be too many. */
  #account(): void {
    try {
      this.memory.hold(this.#going.kept + this.#held.kept + this.#writer.heldBytes);
    } catch (error) {
      this.#cutOff((error as Error).message);
    }
  }

  protected override cut(): void {
    this.#cutOff('the answer cannot be written');
  }

  #write(): void {
    this.#sendHead();
    this.#quiet = false;
    if (this.#going.empty) [this.#going, this.#held] = [this.#held, this.#going];
    this.#writer.write(this.#going.take(bounds.charsOfTurn));
    if (!this.#written && !this.#writer.busy) this.#goOnSoon();
  }

  get #written(): boolean {
    return this.#going.empty && this.#held.empty;
  }

  /** Once others have been served: a reader that is fast wants the rest of what is long at once. */
  #goOnSoon(): void {
    if (this.#goingOn) return;
    this.#goingOn = true;
    setImmediate(() => {
      this.#goingOn = false;
      this.#goOn();
    });
  }

  #goOn(): void {
    if (this.#response.destroyed) return;
    try {
      this.flush();
    } catch (error) {
      this.onBroken(error);
    }
  }

  #cutOff(why: string): void {
    this.abandon();
    this.#going.clear();
    this.#held.clear();
    this.#response.destroy(new SwitchyardError('cancelled', why));
  }

  #closed(): void {
    clearInterval(this.#ping);
    this.#going.clear();
    this.#held.clear();
    this.abandon();
  }

  /** Proxies close connections on which nothing happens. */
  #keepOpen(): void {
    if (this.#quiet && !this.#writer.busy && this.#written && !this.over) {
      this.#sendHead();
      this.#writer.write(': ping\n\n');
    }
    this.#quiet = true;
  }

  #sendHead(): void {
    if (this.#response.headersSent) return;
    const homes = this.homes();
    this.#response.writeHead(200, {
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-cache',
      // Nginx would collect events before passing them on.
      'x-accel-buffering': 'no',
      // None is known where a ping comes first.
      ...(homes === '' ? {} : { 'x-switchyard-home': homes }),
    });
  }

  #open(index: number): void {
    if (this.#opened[index]) return;
    this.#opened[index] = true;
    this.#held.add(this.#format.opening(index, this.#usageField()));
  }

  /** With usage asked for, every chunk has the field: null but in the last. */
  #usageField(): string {
    if (this.#options.continuousUsage) return `,"usage":${usageJson(this.usage())}`;
    return this.#options.includeUsage ? ',"usage":null' : '';
  }
}
