/**
 * Writes recordings of the format in `trace.ts` as they happen. A recording is a row of files `<stem>-0000.trace`, `<stem>-0001.trace`, …, each complete in itself;
 * the newest `limits.traceFilesMax` are kept. Files are readable by their owner only: traces reveal prompts.
 */
import { createWriteStream, unlinkSync, type WriteStream, writeFileSync } from 'node:fs';
import { finished } from 'node:stream/promises';
import { SwitchyardError } from './errors.ts';
import { limits } from './limits.ts';
import type { TraceHeader, TraceSequence } from './trace.ts';

export interface TraceWriterOptions {
  fileBytesMax: number;
  filesMax: number;
  pendingBytesMax: number;
}

/** u32 sequence, u32 position, u8 flags. */
const RECORD_HEAD_BYTES = 9;

export class TraceWriter {
  /** Rows not written because the disk was too slow. */
  droppedRows = 0;
  readonly #stem: string;
  readonly #header: TraceHeader;
  readonly #options: TraceWriterOptions;
  readonly #choices: number; // expert ids of a row
  readonly #wide: boolean; // u16 ids
  readonly #files: string[] = [];
  #stream!: WriteStream;
  #fileBytes = 0;
  #sequences = new Map<number, TraceSequence>(); // of the current file
  #finishing: Promise<void> = Promise.resolve();
  #failure: Error | null = null;

  /** @param stem path without the number and suffix. The first file is created at once. */
  constructor(stem: string, header: TraceHeader, options: Partial<TraceWriterOptions> = {}) {
    this.#stem = stem;
    this.#header = header;
    this.#options = {
      fileBytesMax: limits.traceFileBytesMax,
      filesMax: limits.traceFilesMax,
      pendingBytesMax: limits.tracePendingBytesMax,
      ...options,
    };
    this.#choices = header.moeLayers.length * header.topK;
    this.#wide = header.experts > 256;
    this.#begin(0);
  }

  /** Files of this recording that exist, oldest first. */
  get files(): readonly string[] {
    return this.#files;
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
    const recordBytes = RECORD_HEAD_BYTES + this.#choices * (this.#wide ? 2 : 1);
    const chunk = Buffer.allocUnsafe(rows * recordBytes);
    const ids = new DataView(experts.buffer, experts.byteOffset, experts.length);
    for (let row = 0; row < rows; row++) {
      let at = row * recordBytes;
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
    this.#finish();
    await this.#finishing;
    if (this.#failure !== null) throw this.#failure;
  }

  #write(chunk: Buffer, rows: number, sequence: number, domain: string | null): void {
    if (this.#failure !== null || this.#stream.writableLength + chunk.length > this.#options.pendingBytesMax) {
      this.droppedRows += rows;
      return;
    }
    if (this.#fileBytes + chunk.length > this.#options.fileBytesMax) {
      const next = Number(/(\d+)\.trace$/.exec(this.#stream.path as string)![1]) + 1;
      this.#finish();
      this.#begin(next);
    }
    this.#fileBytes += chunk.length;
    this.#stream.write(chunk);
    const known = this.#sequences.get(sequence);
    if (known !== undefined) known.tokens += rows;
    else {
      this.#sequences.set(sequence, { sequence, domain, tokens: rows });
      if (this.#sequences.size > limits.traceSequencesMax) this.#sequences.delete(this.#sequences.keys().next().value!);
    }
  }

  #begin(number: number): void {
    const path = `${this.#stem}-${String(number).padStart(4, '0')}.trace`;
    this.#stream = createWriteStream(path, { mode: 0o600, flags: 'wx' });
    this.#stream.on('error', (error) => {
      this.#failure ??= error;
    });
    const line = Buffer.from(`${JSON.stringify(orderedHeader(this.#header))}\n`);
    this.#stream.write(line);
    this.#fileBytes = line.length;
    this.#sequences = new Map();
    this.#files.push(path);
    while (this.#files.length > this.#options.filesMax) {
      const oldest = this.#files.shift()!;
      // The oldest was finished long ago, unless files are tiny: then it waits for its turn.
      this.#finishing = this.#finishing.then(() => remove(oldest));
    }
  }

  /** The sequences follow once the rows are on disk. */
  #finish(): void {
    const stream = this.#stream;
    const lines = [...this.#sequences.values()].map((s) => `${JSON.stringify(s)}\n`).join('');
    stream.end();
    this.#finishing = this.#finishing
      .then(() => finished(stream))
      .then(() => writeFileSync(`${stream.path}.sequences.jsonl`, lines, { mode: 0o600 }))
      .catch((error: Error) => {
        this.#failure ??= error;
      });
  }
}

function remove(file: string): void {
  for (const path of [file, `${file}.sequences.jsonl`]) {
    try {
      unlinkSync(path);
    } catch {
      // Someone else removed it first, which is what was wanted.
    }
  }
}

/** Readers recognise a file by its first key. */
function orderedHeader(header: TraceHeader): TraceHeader {
  const { format, version, ...rest } = header;
  return { format, version, ...rest };
}
