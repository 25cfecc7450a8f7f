import type { Batch } from '@switchyard/native';
import type { SwitchyardError } from '@switchyard/proto';
import type { Sequence } from './sequence.ts';
import type { SequenceTraffic } from './sequence-traffic.ts';

/** The rows of one step: the native batch descriptor, and whose rows they are. Filled anew each step in the same memory. */
export class StepBatch {
  readonly native: Batch;
  /** Sequence s has rows native.seqRow[s] .. native.seqRow[s + 1]. */
  readonly sequences: Sequence[] = [];
  /** Index in `sequences` of each row's sequence. (maxRows) */
  private readonly owner: Int32Array;
  /** Of each sequence, its first row that is a guess, and its first guess that cannot be completed: its end where there is none. (maxSequences) */
  private readonly firstGuess: Int32Array;
  private readonly lostGuess: Int32Array;

  constructor(native: Batch) {
    this.native = native;
    this.owner = new Int32Array(native.token.length);
    this.firstGuess = new Int32Array(native.seqPos.length);
    this.lostGuess = new Int32Array(native.seqPos.length);
  }

  get rows(): number {
    return this.native.rows;
  }

  clear(): void {
    this.sequences.length = 0;
    this.native.rows = 0;
    this.native.seqs = 0;
    this.native.logitRows = 0;
    this.native.seqRow[0] = 0;
  }

  /** Adds the next `count` tokens of the sequence that are neither computed nor in a step; those behind its last one are guesses. */
  add(sequence: Sequence, count: number): void {
    const { native } = this;
    const s = native.seqs++;
    const first = native.rows;
    const start = sequence.scheduled;
    sequence.scheduled += count;
    sequence.inFlight++;
    this.sequences.push(sequence);
    for (let i = 0; i < count; i++) {
      native.token[first + i] = sequence.tokens[start + i];
      this.owner[first + i] = s;
    }
    native.seqPos[s] = start;
    native.seqVariant[s] = sequence.ropeVariant;
    for (let i = 0; i < sequence.blockCount; i++) native.block[s * native.maxBlocks + i] = sequence.blocks[i];
    if (sequence.everyLogit) for (let i = 0; i < count; i++) native.logitRow[native.logitRows++] = first + i;
    else
      for (let at = Math.max(start, sequence.length - 1); at < start + count; at++)
        native.logitRow[native.logitRows++] = first + at - start;
    native.rows = first + count;
    native.seqRow[s + 1] = native.rows;
    this.firstGuess[s] = Math.min(first + sequence.length - start, native.rows);
    this.lostGuess[s] = native.rows;
  }

  failed(row: number): boolean {
    return this.sequences[this.owner[row]].failure !== null || row >= this.lostGuess[this.owner[row]];
  }

  /** Guesses of sequence `s` that were computed. */
  guesses(s: number): number {
    return this.lostGuess[s] - this.firstGuess[s];
  }

  traffic(row: number): SequenceTraffic {
    return this.sequences[this.owner[row]].traffic;
  }

  /** Bills a step that ran whole as if each layer's rows had been split: every expert was at home. */
  billAtHome(moeLayers: number, topK: number): void {
    for (let s = 0; s < this.sequences.length; s++) {
      const { traffic } = this.sequences[s];
      const rows = (this.native.seqRow[s + 1] - this.native.seqRow[s]) * moeLayers;
      traffic.rows += rows;
      traffic.visits += rows * topK;
      traffic.homeVisits += rows * topK;
    }
  }

  /** The row cannot be completed: its sequence fails with it, the others go on. The first reason stays. A guess that nobody asked for is only not made. */
  fail(row: number, error: SwitchyardError): void {
    const s = this.owner[row];
    if (row >= this.firstGuess[s]) this.lostGuess[s] = Math.min(this.lostGuess[s], row);
    else this.sequences[s].failure ??= error;
  }
}
