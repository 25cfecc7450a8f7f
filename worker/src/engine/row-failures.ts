import { SwitchyardError } from '@switchyard/proto';
import type { ModelLane } from '../model/contract.ts';
import type { StepBatch } from './step-batch.ts';

/**
 * After a run of segment `segment` (null: the whole model): sequences with a row that the kernels could not complete fail, each with the layer that found out.
 * The other rows are what they would be without them.
 */
export function failIncompleteRows(model: Pick<ModelLane, 'rowFailure'>, segment: number | null, batch: StepBatch): void {
  const { failedRows, rowStatus, rows } = batch.native;
  if (failedRows === 0) return;
  for (let row = 0; row < rows; row++) {
    if (rowStatus[row] !== 0) batch.fail(row, new SwitchyardError('internal', model.rowFailure(segment, rowStatus[row])));
  }
}
