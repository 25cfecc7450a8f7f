import type { Batch, Op } from '@switchyard/native';
import { opKind } from '@switchyard/native';
import { SwitchyardError } from '@switchyard/proto';
import type { Model, MoeLayer } from './contract.ts';

/**
 * What it means when op number n could not complete a row, for the ops that find out: a layer's router, and the sum of its experts' answers.
 * @param routed MoE layer of the list's first router
 * @param combined MoE layer of its first sum
 */
export function rowChecks(list: readonly Op[], moe: readonly MoeLayer[], routed: number, combined: number): Map<number, string> {
  const found = new Map<number, string>();
  list.forEach(({ kind }, op) => {
    if (kind === opKind.route) found.set(op, `layer ${moe[routed++]!.layer}: a router score is not a number: weights or cache are corrupt`);
    else if (kind === opKind.combine)
      found.set(op, `layer ${moe[combined++]!.layer}: an expert's answer is not a number, or too large for the grid: weights are corrupt`);
  });
  return found;
}

/** For those who run a model without an engine: throws `internal` where the last run of the segment (null: the whole model) left a row incomplete. */
export function requireCompleteRows(model: Pick<Model, 'rowFailure'>, segment: number | null, batch: Batch): void {
  if (batch.failedRows === 0) return;
  const row = batch.rowStatus.findIndex((status) => status !== 0);
  throw new SwitchyardError('internal', `row ${row}: ${model.rowFailure(segment, batch.rowStatus[row]!)}`);
}
