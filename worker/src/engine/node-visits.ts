import type { Plan, Routing } from '@switchyard/proto';
import type { Model } from '../model/contract.ts';
import type { SequenceTraffic } from './sequence-traffic.ts';
import type { StepBatch } from './step-batch.ts';

/** Of a sequence all rows are looked at until so many have been, then those at every `SPARSE_STRIDE`-th position: enough to tell nodes apart, cheap in every step. */
const DENSE_ROWS = 64;
const SPARSE_STRIDE = 16;

/**
 * Counts, for rows of running sequences, which nodes hold the experts that they chose: what a home on that node would have found there. It does not depend on the
 * home that the sequence has, so that homes of later requests of its kind can be chosen by it.
 */
export class NodeVisits {
  readonly nodes: number;
  private readonly topK: number;
  private readonly experts: number;
  /** Nodes that hold expert e of MoE layer l: holder[start[l * experts + e] .. start[l * experts + e + 1]], each once. */
  private readonly start: Int32Array;
  private readonly holder: Uint16Array;

  constructor({ model, workers, replicas }: Plan, topK: number) {
    this.topK = topK;
    this.nodes = 1 + Math.max(...workers.map(({ node }) => node));
    this.experts = model.experts;
    const holders = replicas.flatMap((layer) => layer.map((holding) => [...new Set(holding.map((w) => workers[w].node))]));
    this.start = new Int32Array(holders.length + 1);
    holders.forEach((nodes, i) => {
      this.start[i + 1] = this.start[i] + nodes.length;
    });
    this.holder = Uint16Array.from(holders.flat());
  }

  /**
   * Looks at the rows of a step that has just been run. Positions that were looked at before (recomputed after preemption) are left out, and guesses, of which nobody
   * knows yet whether they are right.
   */
  count(batch: StepBatch, { moe }: Pick<Model, 'moe'>): void {
    batch.sequences.forEach((sequence, s) => {
      if (sequence.failure !== null) return;
      const first = batch.native.seqRow[s];
      const end = batch.native.seqRow[s + 1] - sequence.draft.checked;
      const { traffic } = sequence;
      for (let row = first; row < end; row++) {
        const position = batch.native.seqPos[s] + (row - first);
        if (position < traffic.lookedBelow) continue;
        traffic.lookedBelow = position + 1;
        if (traffic.lookedRows >= DENSE_ROWS && position % SPARSE_STRIDE !== 0) continue;
        traffic.lookedRows++;
        this.look(traffic, row, moe);
      }
    });
  }

  private look(traffic: SequenceTraffic, row: number, moe: Model['moe']): void {
    const { topK } = this;
    traffic.held ??= new Float64Array(this.nodes);
    for (let layer = 0; layer < moe.length; layer++) {
      const ids = moe[layer].ids.i32;
      for (let k = 0; k < topK; k++) {
        const expert = layer * this.experts + ids[row * topK + k];
        for (let i = this.start[expert]; i < this.start[expert + 1]; i++) traffic.held[this.holder[i]]++;
      }
    }
    traffic.sampled += moe.length * topK;
  }
}

/** What has been seen of a sequence so far. */
export function routingOf(request: number, { sampled, held }: SequenceTraffic): Routing {
  return { request, sampled, held: Array.from(held ?? []) };
}
