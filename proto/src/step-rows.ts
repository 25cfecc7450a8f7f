/** Rows of one step, sequences of one worker, and guesses of one of them, unless a coordinator is told otherwise. */
export const stepDefaults = { maxBatchRows: 512, maxSequences: 64, draftMax: 16 } as const;

/** Steps over prompts that are under way at once where rows leave for other workers: attention of some runs while the rows of others are away, on the wire or at experts. */
export const promptLanes = 4;

/** Rows of each of those steps at most: half of a lone worker's. Fewer cost more processor time a row, more leave lanes empty. */
export function promptLaneRows(maxBatchRows: number): number {
  return Math.ceil(maxBatchRows / 2);
}

/** Fewer rows than that read an expert's weights again for too few of them. */
const solePromptRowsMin = 128;

/**
 * Rows of each step over a prompt of which nobody else keeps the workers busy: it mostly waits for them, so all lanes have some of it. (With others under way,
 * larger steps cost less.)
 * @param most what `promptLaneRows` says
 */
export function solePromptRows(promptTokens: number, most: number): number {
  return Math.min(most, Math.max(solePromptRowsMin, Math.ceil(promptTokens / promptLanes)));
}
