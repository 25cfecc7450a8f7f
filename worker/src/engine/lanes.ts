import { type EngineConfig, promptLaneRows, promptLanes } from '@switchyard/proto';

/** What a lane's steps are made of. `all`: whatever is due. */
export type LaneWork = 'all' | 'decode' | 'prefill';

/**
 * Lanes of a worker whose rows leave for other workers, where a step is mostly waiting. Decodes have one to themselves, so that the next token of a stream never
 * waits for a prompt beside it; prompts have several, so that the attention of some chunks runs while the rows of others are away. A worker that hosts every expert
 * never waits: there one lane does everything.
 */
export const laneWork: readonly LaneWork[] = ['decode', ...Array.from({ length: promptLanes }, () => 'prefill' as const)];

/** Rows of each lane at most: of decodes one for each sequence (no more of them run than a step has rows), and room for the guesses of one. */
export function laneRows({
  maxBatchRows,
  maxSequences,
  draftMax,
}: Pick<EngineConfig, 'maxBatchRows' | 'maxSequences' | 'draftMax'>): number[] {
  const chunk = promptLaneRows(maxBatchRows);
  return laneWork.map((work) => (work === 'decode' ? Math.min(maxSequences + draftMax, maxBatchRows) : chunk));
}

/** A chunk of prompt has so many at least, when its log-probabilities are wanted. */
const promptLogitRows = 64;

/** Rows of logits of a step at most: one for each sequence, and the guesses of one. */
export function logitRows({ maxSequences, draftMax }: Pick<EngineConfig, 'maxSequences' | 'draftMax'>): number {
  return Math.max(maxSequences + draftMax, promptLogitRows);
}
