import type { Batch } from './contract.ts';
import { NativeError } from './native-error.ts';

/** Header words, then the arrays in the order of `words()`; native/cpp/napi.cpp reads the same layout. */
const header = { rows: 0, seqs: 1, logitRows: 2, maxBlocks: 3, maxRows: 4, maxSeqs: 5, maxLogitRows: 6, failedRows: 7 } as const;
const headerWords = 8;

/** A batch of more words than this is a mistake in a configuration. */
const wordsMax = 2 ** 30;

/** A batch in one array of words, so that a run hands over a single pointer. */
class WordBatch implements Batch {
  readonly #words: Int32Array;
  readonly maxBlocks: number;
  readonly token: Int32Array;
  readonly seqRow: Int32Array;
  readonly seqPos: Int32Array;
  readonly seqVariant: Int32Array;
  readonly logitRow: Int32Array;
  readonly rowStatus: Int32Array;
  readonly block: Int32Array;

  constructor(maxRows: number, maxSeqs: number, maxBlocks: number, maxLogitRows: number) {
    const lengths = [maxRows, maxSeqs + 1, maxSeqs, maxSeqs, maxLogitRows, maxRows, maxSeqs * maxBlocks];
    const total = headerWords + lengths.reduce((sum, length) => sum + length, 0);
    if (total > wordsMax) throw new NativeError('invalid_argument', `a batch of ${total} words: the limit is ${wordsMax}`);
    const words = new Int32Array(total);
    words[header.maxBlocks] = maxBlocks;
    words[header.maxRows] = maxRows;
    words[header.maxSeqs] = maxSeqs;
    words[header.maxLogitRows] = maxLogitRows;
    const starts = lengths.map((_, i) => lengths.slice(0, i).reduce((sum, length) => sum + length, headerWords));
    const [token, seqRow, seqPos, seqVariant, logitRow, rowStatus, block] = lengths.map((length, i) =>
      words.subarray(starts[i]!, starts[i]! + length),
    );
    this.#words = words;
    this.maxBlocks = maxBlocks;
    this.token = token!;
    this.seqRow = seqRow!;
    this.seqPos = seqPos!;
    this.seqVariant = seqVariant!;
    this.logitRow = logitRow!;
    this.rowStatus = rowStatus!;
    this.block = block!;
  }

  get rows(): number {
    return this.#words[header.rows]!;
  }
  set rows(count: number) {
    this.#words[header.rows] = word('rows', count);
  }
  get seqs(): number {
    return this.#words[header.seqs]!;
  }
  set seqs(count: number) {
    this.#words[header.seqs] = word('seqs', count);
  }
  get logitRows(): number {
    return this.#words[header.logitRows]!;
  }
  set logitRows(count: number) {
    this.#words[header.logitRows] = word('logitRows', count);
  }

  get failedRows(): number {
    return this.#words[header.failedRows]!;
  }

  static words(batch: Batch): Int32Array {
    if (!(batch instanceof WordBatch)) throw new NativeError('invalid_argument', 'batch was not made by batchCreate');
    return batch.#words;
  }
}

/** What an array of words would cut to 32 bits in silence. */
function word(name: string, value: number): number {
  if (value !== (value | 0)) throw new NativeError('invalid_argument', `batch ${name} = ${value}: must be a 32-bit integer`);
  return value;
}

function positive(name: string, value: number): number {
  if (!Number.isInteger(value) || value < 1) throw new NativeError('invalid_argument', `${name} = ${value}: must be a positive integer`);
  return value;
}

/** See `Native.batchCreate`. */
export function createBatch(maxRows: number, maxSeqs: number, maxBlocks: number, maxLogitRows: number): Batch {
  return new WordBatch(
    positive('maxRows', maxRows),
    positive('maxSeqs', maxSeqs),
    positive('maxBlocks', maxBlocks),
    positive('maxLogitRows', maxLogitRows),
  );
}

/** The words of a batch, as the addon reads them. */
export const wordsOf: (batch: Batch) => Int32Array = WordBatch.words;
