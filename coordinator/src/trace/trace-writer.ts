/**
 * Writes recordings of the format in proto/src/trace.ts as they happen. A recording is a row of files `<stem>-0000.trace`, `<stem>-0001.trace`, …, each complete in
 * itself; the newest `limits.traceFilesMax` are kept. Files are readable by their owner only: traces reveal prompts.
 */
import { renameSync, unlinkSync, writeFileSync } from 'node:fs';
import { limits, SwitchyardError, type TraceHeader, type TraceSequence } from '@switchyard/proto';
import { AppendedFile } from './appended-file.ts';

export interface TraceWriterOptions {
  fileBytesMax: number;
  filesMax: number;
  pendingBytesMax: number;
}

/** u32 sequence, u32 position, u8 flags. */
const RECORD_HEAD_BYTES = 9;

/** One file of a recording. */
interface TraceFile {
  readonly number: number;
  readonly records: AppendedFile;
  /**
   * A line for each sequence as it begins: a coordinator that is killed leaves domains too. When the file is complete, lines that count tokens take the place of
   * these.
   */
  readonly names: AppendedFile;
  readonly headerBytes: number;
  /** Handed over to be written. */
  rows: number;
  /** Sequences that have rows here and none in a newer file. */
  newestOf: number;
}

/** A sequence, and where its newest rows are. */
interface Known {
  file: TraceFile;
  /** Of that file. */
  line: TraceSequence;
}

export class TraceWriter {
  readonly stem: string;
  readonly #header: TraceHeader;
  readonly #options: TraceWriterOptions;
  readonly #onFailure: (error: Error) => void;
  readonly #choices: number; // expert ids of a row
  readonly #wide: boolean; // u16 ids
  readonly #recordBytes: number;
  readonly #files: TraceFile[] = [];
  /** Of the current file; and of earlier ones, which must not be counted twice. */
  readonly #known = new Map<number, Known>();
  /** Rows that were given and are in no file that was kept, for want of a disk that takes them. */
  #droppedRows = 0;
  #finishing: Promise<void> = Promise.resolve();
  #failure: Error | null = null;

  /**
   * @param stem path without the number and suffix. The first file is created at once.
   * @param onFailure called once, when the disk fails: no row is written from then on
   * @throws the error of a disk on which the first file cannot be made
   */
  constructor(stem: string, header: TraceHeader, onFailure: (error: Error) => void, options: Partial<TraceWriterOptions> = {}) {
    this.stem = stem;
    this.#header = header;
    this.#onFailure = onFailure;
    this.#options = {
      fileBytesMax: limits.traceFileBytesMax,
      filesMax: limits.traceFilesMax,
      pendingBytesMax: limits.tracePendingBytesMax,
      ...options,
    };
    this.#choices = header.moeLayers.length * header.topK;
    this.#wide = header.experts > 256;
    this.#recordBytes = RECORD_HEAD_BYTES + this.#choices * (this.#wide ? 2 : 1);
    this.#begin(0);
  }

  /** Files of this recording that exist, oldest first. */
  get files(): readonly string[] {
    return this.#files.map(({ records }) => records.path);
  }

  /** In those files, or on their way there. */
  get rows(): number {
    return this.#files.reduce((sum, file) => sum + file.rows, 0);
  }

  /** That have rows in those files. */
  get sequences(): number {
    return this.#files.reduce((sum, file) => sum + file.newestOf, 0);
  }

  /** Rows not written because the disk was too slow, or failed. */
  get droppedRows(): number {
    return this.#droppedRows;
  }

  /** Why nothing is written any more; null: it is. */
  get failure(): Error | null {
    return this.#failure;
  }

  /**
   * Appends rows of one sequence, consecutive and in order.
   * @param sequence the recorder's own number, the same for all of a sequence's rows
   * @param experts u16 little endian, (rows, moeLayers, topK), as a `trace` message carries them
   * @throws SwitchyardError `bad_frame` when `experts` has another shape or an id is outside the header's experts; nothing is written then
   */
  append(sequence: number, domain: string | null, position: ArrayLike<number>, generated: ArrayLike<boolean>, experts: Uint8Array): void {
    const rows = position.length;
    if (generated.length !== rows || experts.length !== rows * this.#choices * 2)
      throw new SwitchyardError('bad_frame', `trace: ${experts.length} bytes of expert ids, must be ${rows} rows of ${this.#choices * 2}`, {
        param: 'experts',
      });
    const chunk = Buffer.allocUnsafe(rows * this.#recordBytes);
    const ids = new DataView(experts.buffer, experts.byteOffset, experts.length);
    for (let row = 0; row < rows; row++) {
      let at = row * this.#recordBytes;
      chunk.writeUInt32LE(sequence, at);
      chunk.writeUInt32LE(position[row], at + 4);
      chunk[at + 8] = generated[row] ? 1 : 0;
      at += RECORD_HEAD_BYTES;
      for (let c = 0; c < this.#choices; c++) {
        const id = ids.getUint16(2 * (row * this.#choices + c), true);
        if (id >= this.#header.experts)
          throw new SwitchyardError('bad_frame', `trace: expert ${id}, must be below ${this.#header.experts}`, { param: 'experts' });
        if (this.#wide) chunk.writeUInt16LE(id, at + 2 * c);
        else chunk[at + c] = id;
      }
    }
    this.#write(chunk, rows, sequence, domain);
  }

  /** Writes what is left. @throws the first failure of the disk, if there was one */
  async close(): Promise<void> {
    this.#finish(this.#current);
    await this.#finishing;
    if (this.#failure !== null) throw this.#failure;
  }

  get #current(): TraceFile {
    return this.#files.at(-1)!;
  }

  #write(chunk: Buffer, rows: number, sequence: number, domain: string | null): void {
    if (this.#failure !== null || this.#current.records.pendingBytes + chunk.length > this.#options.pendingBytesMax) {
      this.#droppedRows += rows;
      return;
    }
    const { records } = this.#current;
    if (records.writtenBytes + records.pendingBytes + chunk.length > this.#options.fileBytesMax && !this.#rotate()) {
      this.#droppedRows += rows;
      return;
    }
    const file = this.#current;
    this.#lineOf(sequence, domain, file).tokens += rows;
    file.rows += rows;
    file.records.append(chunk);
  }

  /** The line of the current file; a sequence that is new there gets one. */
  #lineOf(sequence: number, domain: string | null, file: TraceFile): TraceSequence {
    const known = this.#known.get(sequence);
    if (known?.file === file) return known.line;
    if (known !== undefined) known.file.newestOf--;
    const line = { sequence, domain, tokens: 0 };
    file.newestOf++;
    file.names.append(Buffer.from(`${JSON.stringify({ sequence, domain })}\n`));
    // The last place is the newest's.
    this.#known.delete(sequence);
    this.#known.set(sequence, { file, line });
    if (this.#known.size > limits.traceSequencesMax) this.#known.delete(this.#known.keys().next().value!);
    return line;
  }

  /** False: there can be no further file. */
  #rotate(): boolean {
    const full = this.#current;
    try {
      this.#begin(full.number + 1);
    } catch (error) {
      this.#fail(error as Error);
      return false;
    }
    this.#finish(full);
    while (this.#files.length > this.#options.filesMax) {
      const oldest = this.#files.shift()!.records.path;
      // It was finished long ago, unless files are tiny: then it waits for its turn.
      this.#finishing = this.#finishing.then(() => remove(oldest));
    }
    return true;
  }

  #begin(number: number): void {
    const path = `${this.stem}-${String(number).padStart(4, '0')}.trace`;
    const onFailure = (error: Error) => this.#fail(error);
    const records = new AppendedFile(path, onFailure);
    const line = Buffer.from(`${JSON.stringify(orderedHeader(this.#header))}\n`);
    try {
      const names = new AppendedFile(namesPath(path), onFailure);
      this.#files.push({ number, records, names, headerBytes: line.length, rows: 0, newestOf: 0 });
    } catch (error) {
      void records.close();
      unlink(path);
      throw error;
    }
    records.append(line);
  }

  /** The complete lines of sequences follow once the rows are on disk. */
  #finish(file: TraceFile): void {
    const lines: string[] = [];
    for (const known of this.#known.values()) if (known.file === file) lines.push(`${JSON.stringify(known.line)}\n`);
    this.#finishing = this.#finishing
      .then(() => Promise.all([file.records.close(), file.names.close()]))
      // Never half a list, whenever the process is killed.
      .then(() => replaceFile(namesPath(file.records.path), lines.join('')))
      .catch((error: Error) => this.#fail(error));
  }

  #fail(error: Error): void {
    for (const file of this.#files) {
      const { writtenBytes, pendingBytes } = file.records;
      const kept = Math.max(0, Math.floor((writtenBytes + pendingBytes - file.headerBytes) / this.#recordBytes));
      this.#droppedRows += file.rows - kept;
      file.rows = kept;
    }
    if (this.#failure !== null) return;
    this.#failure = error;
    this.#onFailure(error);
  }
}

function namesPath(trace: string): string {
  return `${trace}.sequences.jsonl`;
}

function replaceFile(path: string, text: string): void {
  const partial = `${path}.partial`;
  try {
    writeFileSync(partial, text, { mode: 0o600 });
    renameSync(partial, path);
  } catch (error) {
    unlink(partial);
    throw error;
  }
}

function remove(file: string): void {
  unlink(file);
  unlink(namesPath(file));
}

function unlink(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // Someone else removed it first, which is what was wanted.
  }
}

/** Readers recognise a file by its first key. */
function orderedHeader(header: TraceHeader): TraceHeader {
  const { format, version, ...rest } = header;
  return { format, version, ...rest };
}
