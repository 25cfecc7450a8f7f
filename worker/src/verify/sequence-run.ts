import type { Batch } from '@switchyard/native';
import { SwitchyardError } from '@switchyard/proto';
import type { Runner } from './lockstep-cluster.ts';

export interface FedRows {
  /** (rows, vocab), one row per token fed. */
  logits: Float32Array;
  /** experts[i]: chosen ids of MoE layer i, ascending within a row, (rows, topK). */
  experts: Int32Array[];
}

/** One sequence by itself on a runner: feeds tokens in pieces and keeps what every row answered. */
export class SequenceRun {
  private readonly runner: Runner;
  private readonly batch: Batch;
  private readonly variant: number;
  private readonly maxLength: number;
  private position = 0;

  /** `maxLength`: tokens that the sequence may reach, which decides its rope variant. It takes the cache's blocks from the last one down. */
  constructor(runner: Runner, maxLength: number) {
    const { shape } = runner.model;
    if (maxLength > shape.maxContext)
      throw new SwitchyardError('context_length_exceeded', `a sequence of ${maxLength} tokens, the limit is ${shape.maxContext}`);
    this.runner = runner;
    this.batch = runner.model.createBatch();
    this.variant = runner.model.ropeVariant(maxLength);
    this.maxLength = maxLength;
    for (let b = 0; b < Math.ceil(maxLength / shape.blockTokens); b++) this.batch.block[b] = shape.kvBlocks - 1 - b;
  }

  /** Feeds tokens, as many at once as the model's batch holds. */
  feed(tokens: ArrayLike<number>): FedRows {
    const { shape } = this.runner.model;
    const atOnce = Math.min(this.batch.token.length, this.batch.logitRow.length);
    const fed: FedRows = {
      logits: new Float32Array(tokens.length * shape.vocab),
      experts: shape.moeLayers.map(() => new Int32Array(tokens.length * shape.topK)),
    };
    for (let from = 0; from < tokens.length; from += atOnce) this.step(tokens, from, Math.min(from + atOnce, tokens.length), fed);
    return fed;
  }

  private step(tokens: ArrayLike<number>, from: number, to: number, fed: FedRows): void {
    const { batch, runner } = this;
    const { vocab, topK } = runner.model.shape;
    const rows = to - from;
    if (this.position + rows > this.maxLength)
      throw new Error(`SequenceRun: ${this.position + rows} tokens in a sequence of at most ${this.maxLength}`);
    for (let r = 0; r < rows; r++) {
      batch.token[r] = tokens[from + r]!;
      batch.logitRow[r] = r;
    }
    batch.rows = batch.logitRows = batch.seqRow[1] = rows;
    batch.seqs = 1;
    batch.seqRow[0] = 0;
    batch.seqPos[0] = this.position;
    batch.seqVariant[0] = this.variant;
    runner.run(batch);
    this.position += rows;

    const { logits, moe } = runner.model;
    fed.logits.set(logits.f32.subarray(0, rows * vocab), from * vocab);
    moe.forEach(({ ids }, i) => {
      for (let r = 0; r < rows; r++) fed.experts[i]!.set(ids.i32.slice(r * ids.width, r * ids.width + topK).sort(), (from + r) * topK);
    });
  }
}

/** The most likely token of a row of logits; among equals the lowest id. */
export function greedy(logits: Float32Array, row: number, vocab: number): number {
  let best = 0;
  for (let v = 1; v < vocab; v++) if (logits[row * vocab + v]! > logits[row * vocab + best]!) best = v;
  return best;
}
