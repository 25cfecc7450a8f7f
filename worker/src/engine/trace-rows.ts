import type { TraceRows } from '@switchyard/proto';
import type { ModelLane } from '../model/contract.ts';
import type { StepBatch } from './step-batch.ts';

/**
 * The routing of the batch's rows: which experts each chose, layer by layer. Positions that were traced before (recomputed after preemption) are left out, and guesses
 * that turned out wrong: `computed` of the sequences must not count them; and abandoned requests, whose numbers may be those of others by now.
 */
export function traceRows(batch: StepBatch, model: ModelLane, topK: number): TraceRows | null {
  const request: number[] = [];
  const position: number[] = [];
  const generated: boolean[] = [];
  const row: number[] = [];
  batch.sequences.forEach((sequence, s) => {
    if (sequence.failure !== null || sequence.abandoned) return;
    const first = batch.native.seqRow[s];
    const end = batch.native.seqRow[s + 1];
    for (let r = first; r < end; r++) {
      const at = batch.native.seqPos[s] + (r - first);
      if (at < sequence.tracedTokens || at >= sequence.computed) continue;
      request.push(sequence.request.request);
      position.push(at);
      generated.push(at >= sequence.promptLength);
      row.push(r);
      sequence.tracedTokens = at + 1;
    }
  });
  if (row.length === 0) return null;
  const perRow = model.moe.length * topK;
  const experts = new Uint16Array(row.length * perRow);
  model.moe.forEach(({ ids }, layer) => {
    row.forEach((r, i) => {
      for (let k = 0; k < topK; k++) experts[i * perRow + layer * topK + k] = ids.i32[r * topK + k];
    });
  });
  return { request, position, generated, experts: new Uint8Array(experts.buffer) };
}
