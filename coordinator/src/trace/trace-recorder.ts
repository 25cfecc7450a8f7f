import { readdirSync } from 'node:fs';
import path from 'node:path';
import { limits, SwitchyardError, type TraceHeader, type TraceRows, TraceWriter } from '@switchyard/proto';

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
  sequences: number;
  /** Written, or about to be; those that were dropped are none of them. */
  rows: number;
  droppedRows: number;
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
  readonly #requestOf: (request: number) => { tenant: string; domain: string } | null;
  #writer: TraceWriter | null = null;
  #stem = '';
  #tenants: ReadonlySet<string> | null = null;
  /** Sequences by request. Those of the distant past are forgotten: nothing more comes of them. */
  readonly #traced = new Map<number, Traced | null>();
  #sequences = 0;
  /** Handed to the writer, which may drop some. */
  #rows = 0;
  readonly #rowBytes: number;

  constructor(
    folder: string | null,
    header: Omit<TraceHeader, 'createdAt'>,
    requestOf: (request: number) => { tenant: string; domain: string } | null,
  ) {
    this.#folder = folder;
    this.#header = header;
    this.#requestOf = requestOf;
    this.#rowBytes = header.moeLayers.length * header.topK * 2;
  }

  get summary(): TraceSummary | null {
    if (this.#writer === null) return null;
    const { droppedRows, files } = this.#writer;
    return { on: true, file: this.#stem, files: [...files], sequences: this.#sequences, rows: this.#rows - droppedRows, droppedRows };
  }

  /** @throws SwitchyardError `invalid_request` */
  start({ file, tenants }: TraceStart): TraceSummary {
    if (this.#folder === null) throw invalid('file', 'cannot be recorded: the coordinator was started without --trace-dir');
    if (this.#writer !== null) throw invalid('on', `is true, and ${this.#stem} is being recorded already`);
    if (!/^[\w][\w.-]{0,127}$/.test(file))
      throw invalid('file', `is ${JSON.stringify(file.slice(0, 64))}; a name of letters, digits, '.', '-' and '_' is needed`);
    // Files are never written over: those of the new recording would be found to be there only later, and its rows dropped.
    if (recordings(this.#folder).has(file)) throw invalid('file', `is ${JSON.stringify(file)}; there is a recording of that name`);
    this.#stem = path.join(this.#folder, file);
    this.#tenants = tenants === null ? null : new Set(tenants);
    this.#traced.clear();
    this.#sequences = 0;
    this.#rows = 0;
    this.#writer = new TraceWriter(this.#stem, { ...this.#header, createdAt: new Date().toISOString() });
    return this.summary!;
  }

  /** Rows of one step of one worker: those of a sequence lie together. */
  append({ request, position, generated, experts }: TraceRows): void {
    if (this.#writer === null) return;
    for (let first = 0; first < request.length; ) {
      let end = first + 1;
      while (end < request.length && request[end] === request[first]) end++;
      const traced = this.#tracedOf(request[first]);
      if (traced !== null) {
        const positions = Array.prototype.slice.call(position, first, end) as number[];
        const rows = experts.subarray(first * this.#rowBytes, end * this.#rowBytes);
        this.#writer.append(traced.sequence, traced.domain, positions, generated.slice(first, end), rows);
        this.#rows += end - first;
      }
      first = end;
    }
  }

  /** Null when nothing was being recorded. */
  async stop(): Promise<TraceSummary | null> {
    const summary = this.summary;
    const writer = this.#writer;
    this.#writer = null;
    if (summary === null || writer === null) return null;
    try {
      await writer.close();
    } catch (error) {
      throw new SwitchyardError('internal', `${this.#stem} could not be written: ${(error as Error).message}`, { cause: error });
    }
    return { ...summary, on: false, files: [...writer.files] };
  }

  /** Null: not to be recorded. */
  #tracedOf(request: number): Traced | null {
    const known = this.#traced.get(request);
    if (known !== undefined) return known;
    const asked = this.#requestOf(request);
    const wanted = asked !== null && (this.#tenants === null || this.#tenants.has(asked.tenant));
    const traced = wanted ? { sequence: this.#sequences++, domain: asked.domain === '' ? null : asked.domain } : null;
    this.#traced.set(request, traced);
    if (this.#traced.size > limits.traceSequencesMax) this.#traced.delete(this.#traced.keys().next().value!);
    return traced;
  }
}

/** Names of the recordings in a folder. */
function recordings(folder: string): Set<string> {
  try {
    return new Set(readdirSync(folder).flatMap((name) => /^(.+)-\d+\.trace$/.exec(name)?.[1] ?? []));
  } catch (error) {
    throw new SwitchyardError('internal', `--trace-dir ${folder}: ${(error as Error).message}`, { cause: error });
  }
}

function invalid(param: string, what: string): SwitchyardError {
  return new SwitchyardError('invalid_request', `${param} ${what}`, { param });
}
