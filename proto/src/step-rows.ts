/** Rows of one step unless a coordinator is told otherwise. */
export const batchRowsDefault = 512;

/** Steps over prompts that are under way at once where rows leave for other workers: one chunk's attention runs while the rows of the chunk before it are away. */
export const promptLanes = 2;

/** Rows of each of those steps: together they hold what one step of a lone worker does. */
export function promptLaneRows(maxBatchRows: number): number {
  return Math.ceil(maxBatchRows / promptLanes);
}
