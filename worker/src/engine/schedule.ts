/** What scheduling needs to know of a sequence. Lengths in tokens. */
export interface Schedulable {
  /** Tokens known: prompt and produced. */
  readonly length: number;
  /** Of these, how many have keys and values in the cache. */
  readonly computed: number;
  readonly blockCount: number;
  /** Blocks that would become free if this sequence let go of all of its own. */
  readonly exclusiveBlocks: number;
  /** Every row needs its logits (prompt logprobs), not the last one alone. */
  readonly everyLogit: boolean;
}

/** What admitting a waiting sequence would cost now. */
export interface AdmissionCost {
  /** Blocks taken out of the free list, cached ones that nobody holds included. */
  blocks: number;
  /** Tokens that the prefix cache already holds. */
  cached: number;
}

export interface StepLimits {
  rows: number;
  sequences: number;
  logitRows: number;
  blockTokens: number;
  /** Free blocks that admission leaves for running sequences to grow into. */
  watermarkBlocks: number;
}

/** The outcome. `rows[i]` are the rows of running[i] for i < kept, then of the admitted sequences in waiting order. */
export interface StepDecision {
  readonly rows: Int32Array;
  /** running[kept ..] are preempted: the youngest, so that the oldest always make progress. */
  kept: number;
  admitted: number;
}

/**
 * Decides one step: decodes first, so that a long prompt never stops the streams beside it; then prompts in order of arrival, in chunks of what is left; then
 * waiting sequences while blocks last. Pure: reads its arguments, writes only `out`.
 *
 * @param running oldest first; `waiting` next first
 */
export function decideStep(
  running: readonly Schedulable[],
  waiting: readonly Schedulable[],
  freeBlocks: number,
  limits: StepLimits,
  admissionCost: (sequence: Schedulable) => AdmissionCost,
  out: StepDecision,
): void {
  let free = freeBlocks;
  let kept = running.length;
  for (let i = 0; i < kept; i++) {
    const missing = blocksFor(running[i].length, limits) - running[i].blockCount;
    while (missing > free && kept > i + 1) free += running[--kept].exclusiveBlocks;
    if (missing > free) kept = i;
    else free -= missing;
  }

  let rowsLeft = limits.rows;
  let logitsLeft = limits.logitRows;
  for (let i = 0; i < kept; i++) {
    out.rows[i] = 0;
    if (running[i].length - running[i].computed !== 1 || rowsLeft === 0 || logitsLeft === 0) continue;
    out.rows[i] = 1;
    rowsLeft--;
    logitsLeft--;
  }
  for (let i = 0; i < kept && rowsLeft > 0; i++) {
    const pending = running[i].length - running[i].computed;
    if (pending === 1) continue;
    out.rows[i] = chunkRows(pending, running[i].everyLogit, rowsLeft, logitsLeft);
    rowsLeft -= out.rows[i];
    logitsLeft -= logitRows(out.rows[i], pending, running[i].everyLogit);
  }

  let admitted = 0;
  const preempting = kept < running.length;
  while (!preempting && rowsLeft > 0 && logitsLeft > 0 && admitted < waiting.length && kept + admitted < limits.sequences) {
    const sequence = waiting[admitted];
    const cost = admissionCost(sequence);
    // With nothing else running there is nobody to leave blocks for.
    const reserve = kept + admitted === 0 ? 0 : limits.watermarkBlocks;
    if (free - cost.blocks < reserve) break;
    free -= cost.blocks;
    const pending = sequence.length - cost.cached;
    const rows = chunkRows(pending, sequence.everyLogit, rowsLeft, logitsLeft);
    out.rows[kept + admitted] = rows;
    rowsLeft -= rows;
    logitsLeft -= logitRows(rows, pending, sequence.everyLogit);
    admitted++;
  }
  out.kept = kept;
  out.admitted = admitted;
}

export function blocksFor(tokens: number, limits: Pick<StepLimits, 'blockTokens'>): number {
  return Math.ceil(tokens / limits.blockTokens);
}

function chunkRows(pending: number, everyLogit: boolean, rowsLeft: number, logitsLeft: number): number {
  const rows = Math.min(pending, rowsLeft);
  if (everyLogit) return Math.min(rows, logitsLeft);
  // The row of the last token needs a logit row; without one, it waits.
  return rows === pending && logitsLeft === 0 ? rows - 1 : rows;
}

function logitRows(rows: number, pending: number, everyLogit: boolean): number {
  if (everyLogit) return rows;
  return rows === pending ? 1 : 0;
}
