import { readdirSync } from 'node:fs';
import path from 'node:path';
import { limits, SwitchyardError, type TraceHeader, type TraceRows } from '@switchyard/proto';
import { TraceWriter, type TraceWriterOptions } from './trace-writer.ts';

interface TraceStart {
  /** Name of the recording inside the trace folder. */
  file: string;
  /** Record these tenants alone; null: all. */
  tenants: readonly string[] | null;
}

/** A recording, while it runs and at its end. */
export interface TraceSummary {
  on: boolean;
  file: string;
  files: readonly string[];
  /** In those files, or on their way there: what was dropped, or was in files that newer ones have replaced, is not counted. */
  sequences: number;
  rows: number;
  droppedRows: number;
  /** Why nothing is recorded any more, until it is turned off; null: it is. */
  failure: string | null;
}

interface Traced {
  sequence: number;
  domain: string | null;
}

/**
 * Records which experts real requests choose (the format is in proto/src/trace.ts). One recording at a time; files are private to their owner, for traces reveal
 * prompts.
 */
export class TraceRecorder {
  readonly #folder: string | null;
  readonly #header: Omit<TraceHeader, 'createdAt'>;
  readonly #requestOf: (worker: number, request: number) => { tenant: string; domain: string } | null;
  readonly #onFailure: (what: string) => void;
  readonly #options: Partial<TraceWriterOptions>;
  #writer: TraceWriter | null = null;
  #tenants: ReadonlySet<string> | null = null;
  /** Sequences by worker and request, which are the worker's own alone. Those of the distant past are forgotten: nothing more comes of them. */
  readonly #traced = new Map<string, Traced | null>();
  #sequences = 0;
  readonly #rowBytes: number;

  /** @param onFailure called when the disk fails the recording that is being made: nothing more of it is written then */
  constructor(
    folder: string | null,
    header: Omit<TraceHeader, 'createdAt'>,
    requestOf: (worker: number, request: number) => { tenant: string; domain: string } | null,
    onFailure: (what: string) => void,
    options: Partial<TraceWriterOptions> = {},
  ) {
    this.#folder = folder;
    this.#header = header;
    this.#requestOf = requestOf;
    this.#onFailure = onFailure;
    this.#options = options;
    this.#rowBytes = header.moeLayers.length * header.topK * 2;
  }

  get summary(): TraceSummary | null {
    return this.#writer === null ? null : summaryOf(this.#writer, true);
  }

  /** @throws SwitchyardError `invalid_request`; `internal` where the folder cannot be read or takes no file */
  start({ file, tenants }: TraceStart): TraceSummary {
    if (this.#folder === null) throw invalid('file', 'cannot be recorded: the coordinator was started without --trace-dir');
    if (this.#writer !== null) throw invalid('on', `is true, and ${this.#writer.stem} is being recorded already`);
    if (!/^[\w][\w.-]{0,127}$/.test(file))
      throw invalid('file', `is ${JSON.stringify(file.slice(0, 64))}; a name of letters, digits, '.', '-' and '_' is needed`);
    // Files are never written over: those of the new recording would be found to be there only later, and its rows dropped.
    if (recordings(this.#folder).has(file)) throw invalid('file', `is ${JSON.stringify(file)}; there is a recording of that name`);
    this.#writer = this.#begin(path.join(this.#folder, file));
    this.#tenants = tenants === null ? null : new Set(tenants);
    this.#traced.clear();
    this.#sequences = 0;
    return summaryOf(this.#writer, true);
  }

  /** Rows of one step of one worker: those of a sequence lie together. */
  append(worker: number, { request, position, generated, experts }: TraceRows): void {
    if (this.#writer === null) return;
    for (let first = 0; first < request.length; ) {
      let end = first + 1;
      while (end < request.length && request[end] === request[first]) end++;
      const traced = this.#tracedOf(worker, request[first]);
      if (traced !== null) {
        const positions = Array.prototype.slice.call(position, first, end) as number[];
        const rows = experts.subarray(first * this.#rowBytes, end * this.#rowBytes);
        this.#writer.append(traced.sequence, traced.domain, positions, generated.slice(first, end), rows);
      }
      first = end;
    }
  }

  /** Null when nothing was being recorded. @throws SwitchyardError `internal` when not all of it could be written */
  async stop(): Promise<TraceSummary | null> {
    const writer = this.#writer;
    this.#writer = null;
    if (writer === null) return null;
    try {
      await writer.close();
    } catch (error) {
      throw new SwitchyardError('internal', unwritten(writer.stem, error as Error), { cause: error });
    }
    return summaryOf(writer, false);
  }

  #begin(stem: string): TraceWriter {
    const onFailure = (error: Error) => {
      // What fails while it is being closed is told by `stop`; another recording may have begun by then.
      if (this.#writer === writer) this.#onFailure(unwritten(stem, error));
    };
    const header = { ...this.#header, createdAt: new Date().toISOString() };
    let writer: TraceWriter;
    try {
      writer = new TraceWriter(stem, header, onFailure, this.#options);
    } catch (error) {
      throw new SwitchyardError('internal', unwritten(stem, error as Error), { cause: error });
    }
    return writer;
  }

  /** Null: not to be recorded. */
  #tracedOf(worker: number, request: number): Traced | null {
    const key = `${worker} ${request}`;
    const known = this.#traced.get(key);
    if (known !== undefined) return known;
    const asked = this.#requestOf(worker, request);
    const wanted = asked !== null && (this.#tenants === null || this.#tenants.has(asked.tenant));
    const traced = wanted ? { sequence: this.#sequences++, domain: asked.domain === '' ? null : asked.domain } : null;
    this.#traced.set(key, traced);
    if (this.#traced.size > limits.traceSequencesMax) this.#traced.delete(this.#traced.keys().next().value!);
    return traced;
  }
}

function summaryOf({ stem, files, sequences, rows, droppedRows, failure }: TraceWriter, on: boolean): TraceSummary {
  return { on, file: stem, files, sequences, rows, droppedRows, failure: failure?.message ?? null };
}

function unwritten(stem: string, { message }: Error): string {
  return `${stem} could not be written: ${message}`;
}

/** Names of the recordings in a folder. */
function recordings(folder: string): Set<string> {
  try {
    return new Set(readdirSync(folder).flatMap((name) => /^(.+)-\d+\.trace(?:\.sequences\.jsonl)?$/.exec(name)?.[1] ?? []));
  } catch (error) {
    throw new SwitchyardError('internal', `--trace-dir ${folder}: ${(error as Error).message}`, { cause: error });
  }
}

function invalid(param: string, what: string): SwitchyardError {
  return new SwitchyardError('invalid_request', `${param} ${what}`, { param });
}
