import type { LaneWork } from './lanes.ts';

/** What scheduling needs to know of a sequence. Lengths in tokens. */
export interface Schedulable {
  /** Tokens known: prompt and produced. */
  readonly length: number;
  /** Of these, how many have keys and values in the cache or are in a running step. */
  readonly scheduled: number;
  /** Running steps that have tokens of it. */
  readonly inFlight: number;
  readonly blockCount: number;
  /** Blocks that would become free if this sequence let go of all of its own. */
  readonly exclusiveBlocks: number;
  /** Every row needs its logits (prompt logprobs), not the last one alone. */
  readonly everyLogit: boolean;
  /** Guesses of its next tokens that its step would better check besides. */
  readonly proposed: number;
  /** Cancelled or failed: once its steps are over nothing more is wanted of it. */
  readonly ending: boolean;
  /** Of a waiting one, how many tokens the prefix cache has, as far as is known without a look. */
  readonly likelyCached: number;
  /** Of a waiting one: it had better be admitted later, for another computes what it lacks. */
  readonly awaitsPrefix: boolean;
  /** Decisions that admitted others behind it and gave it no rows of its prompt though it wanted some; at least `OVERTAKEN_MAX` of one that waits again. */
  overtaken: number;
}

/** What admitting a waiting sequence would cost now. */
export interface AdmissionCost {
  /** Blocks taken out of the free list, cached ones that nobody holds included. */
  blocks: number;
  /** Tokens that the prefix cache already holds. */
  cached: number;
}

/** Null: better not yet. `computing` are those that steps compute something of: that are in one, or have rows of this decision. */
export type AdmissionRule = (sequence: Schedulable, computing: readonly Schedulable[]) => AdmissionCost | null;

export interface StepLimits {
  rows: number;
  sequences: number;
  logitRows: number;
  blockTokens: number;
  /** Free blocks that admission leaves for running sequences to grow into. */
  watermarkBlocks: number;
  /** Other homes wait for what this worker computes for them. */
  othersWait: boolean;
}

/**
 * The outcome. `rows[i]` are the rows of running[i], its guesses included, then of the admitted sequences in waiting order. `preempted[i]` is 1 for the running ones that must let go of
 * their blocks: the youngest, so that the oldest always make progress.
 */
export interface StepDecision {
  readonly rows: Int32Array;
  readonly preempted: Uint8Array;
  /** How many of the waiting ones, and which: admittedAt[0 .. admitted), ascending. */
  admitted: number;
  readonly admittedAt: Int32Array;
}

/**
 * Rows in one step, beside streams and for other homes, of prompts that need the logits of every row: to read a row of a large vocabulary takes milliseconds, in which the event loop
 * stands still and all of them wait.
 */
const LOGIT_ROWS_BESIDE_STREAMS = 8;

/**
 * Decisions in which prompts that came later may be preferred to one that has none of the rows: about as many steps as some thousand tokens take, so that waiting for shorter ones
 * about doubles the time of a long prompt, and far more than those need that are not much longer.
 */
export const OVERTAKEN_MAX = 16;

/**
 * Decides one step of a lane: decodes first, so that a long prompt never stops the streams beside it (nor keeps the blocks that they need); then prompts, in
 * chunks of what is left, and waiting sequences while blocks last. Of a prompt the next chunk may be given out while the one before is in a step;
 * everything else waits for its step to end. Guesses of decodes get what nobody else has a use for. Pure: reads its arguments, writes only `out`.
 *
 * @param running oldest first; `waiting` next first
 */
export function decideStep(
  work: LaneWork,
  running: readonly Schedulable[],
  waiting: readonly Schedulable[],
  freeBlocks: number,
  limits: StepLimits,
  admissionRule: AdmissionRule,
  out: StepDecision,
): void {
  out.rows.fill(0, 0, running.length);
  out.preempted.fill(0, 0, running.length);
  out.admitted = 0;
  let free = freeBlocks;
  let rowsLeft = limits.rows;
  let logitsLeft = limits.logitRows;

  if (work !== 'prefill') {
    const somethingRuns = running.some((sequence) => sequence.inFlight > 0);
    for (let i = 0; i < running.length; i++) {
      if (out.preempted[i] === 1 || running[i].ending || !isDue(work, running[i])) continue;
      const missing = Math.max(0, blocksFor(running[i].length, limits) - running[i].blockCount);
      for (let j = running.length - 1; j > i && missing > free; j--) {
        if (out.preempted[j] === 1 || running[j].inFlight > 0) continue;
        out.preempted[j] = 1;
        free += running[j].exclusiveBlocks;
      }
      if (missing > free) {
        // What runs elsewhere gives blocks back; with nothing running, only this one's own can be let go.
        if (!somethingRuns) out.preempted[i] = 1;
        continue;
      }
      free -= missing;
      if (running[i].length - running[i].scheduled !== 1 || rowsLeft === 0 || logitsLeft === 0) continue;
      out.rows[i] = 1;
      rowsLeft--;
      logitsLeft--;
    }
  }
  if (work === 'decode') {
    addGuesses(running, free, rowsLeft, logitsLeft, limits, out);
    return;
  }
  const left: Left = { rows: rowsLeft, logits: logitsLeft, judged: Number.POSITIVE_INFINITY };
  if (limits.othersWait || running.some(isStream)) left.judged = LOGIT_ROWS_BESIDE_STREAMS;
  decidePrompts(work, running, waiting, free, limits, left, admissionRule, out);
  if (work === 'all' && left.rows === rowsLeft) addGuesses(running, free, rowsLeft, left.logits, limits, out);
}

/** What a step has left to give. `judged`: rows of prompts that need the logits of each. */
interface Left {
  rows: number;
  logits: number;
  judged: number;
}

/** A prompt that may have rows: a running one, or a waiting one, which must be admitted. Place `at` in the list of its kind. */
interface Candidate {
  readonly runs: boolean;
  readonly at: number;
  readonly sequence: Schedulable;
  /** Tokens to compute; of a waiting one, before its admission, about so many. */
  pending: number;
  rows: number;
}

/**
 * The oldest prompt goes first, so that each comes to its end. But if another is less than half as long as what it still has, it takes half of the rows at most: by then
 * that other ends sooner by more than the oldest ends later. The shortest is next, and so on; rows that nobody has a use for go to the oldest after all.
 *
 * Waiting ones come after all that run only as far as they are longer. While the first of them lacks blocks, none is admitted: it would never find enough.
 *
 * While shorter ones come, one that is long would never have its turn. So of those that were overtaken often enough one comes before all but the oldest, one that waits if there is any,
 * and has half of the rows that are left.
 */
function decidePrompts(
  work: LaneWork,
  running: readonly Schedulable[],
  waiting: readonly Schedulable[],
  freeBlocks: number,
  limits: StepLimits,
  left: Left,
  admissionRule: AdmissionRule,
  out: StepDecision,
): void {
  let free = freeBlocks;
  const candidates: Candidate[] = [];
  const computing: Schedulable[] = [];
  let kept = 0;
  let wanting = false;
  for (let i = 0; i < running.length; i++) {
    if (out.preempted[i] === 1) continue;
    kept++;
    if (running[i].ending) continue;
    if (running[i].inFlight > 0) computing.push(running[i]);
    // A stream takes the block that it lacks from a younger sequence that is in no step: one with a chunk in some lane at all times would never let go.
    wanting ||= work === 'prefill' && blocksFor(running[i].length, limits) - running[i].blockCount > free;
    const pending = pendingOf(running[i]);
    if (!wanting && pending > 1 && isDue(work, running[i])) candidates.push({ runs: true, at: i, sequence: running[i], pending, rows: 0 });
  }
  const lacking = wanting || kept < running.length;
  if (!lacking && kept < limits.sequences)
    for (const [at, sequence] of waiting.entries())
      candidates.push({ runs: false, at, sequence, pending: sequence.length - sequence.likelyCached, rows: 0 });
  if (candidates.length === 0) return;

  const admitted: Candidate[] = [];
  const fits = ({ blocks }: AdmissionCost) => {
    // With nothing else running there is nobody to leave blocks for.
    const reserve = kept + admitted.length === 0 ? 0 : limits.watermarkBlocks;
    return free - blocks >= reserve;
  };
  const firstFits = () => {
    for (const sequence of waiting) {
      const cost = admissionRule(sequence, computing);
      if (cost !== null) return fits(cost);
    }
    return false;
  };
  /** Not known before somebody asks. */
  let blocksLast: boolean | null = null;
  const admit = (candidate: Candidate, rowsMax: number) => {
    if (kept + admitted.length === limits.sequences || left.logits === 0) return;
    blocksLast ??= firstFits();
    if (!blocksLast) return;
    const cost = admissionRule(candidate.sequence, computing);
    if (cost === null) return;
    blocksLast = fits(cost);
    if (!blocksLast) return;
    candidate.pending = candidate.sequence.length - cost.cached;
    take(left, candidate, rowsMax);
    if (candidate.rows === 0) return;
    free -= cost.blocks;
    admitted.push(candidate);
    computing.push(candidate.sequence);
  };
  const serve = (candidate: Candidate, rowsMax: number) => {
    if (!candidate.runs) return admit(candidate, rowsMax);
    take(left, candidate, rowsMax);
    if (candidate.rows > 0) computing.push(candidate.sequence);
  };

  /** What it has already, and of what is left as much as it has a use for. */
  const serveMore = (candidate: Candidate) => {
    giveBack(left, candidate);
    take(left, candidate, left.rows);
  };

  const [oldest, ...others] = candidates;
  const overdue = others.filter(({ sequence }) => sequence.overtaken >= OVERTAKEN_MAX).sort((a, b) => Number(a.runs) - Number(b.runs));
  others.sort((a, b) => a.pending - b.pending);
  const hasOthers = others.length > 0;
  const letsPass = hasOthers && 2 * others[0].pending < oldest.pending;
  // Rows that are judged are few, and of use to these alone.
  const sharesJudged = candidates.filter(({ sequence }) => sequence.everyLogit).length > 1;
  serve(oldest, firstRowsMax(oldest, left, { hasOthers, letsPass, sharesJudged }));
  for (const candidate of overdue) {
    if (left.rows === 0) break;
    serve(candidate, firstRowsMax(candidate, left, { hasOthers, letsPass: true, sharesJudged }));
    if (candidate.rows > 0) break;
  }
  for (const candidate of others) {
    if (left.rows === 0) break;
    if (candidate.rows > 0) serveMore(candidate);
    else serve(candidate, left.rows);
  }
  if (oldest.rows > 0) serveMore(oldest);

  for (const { runs, at, rows } of candidates) if (runs) out.rows[at] = rows;
  admitted.sort((a, b) => a.at - b.at);
  for (const { at, rows } of admitted) {
    out.rows[running.length + out.admitted] = rows;
    out.admittedAt[out.admitted++] = at;
  }
}

/** Counts for whom the decision about these, which is not carried out yet, left nothing while it admitted others behind them. */
export function countOvertaken(
  running: readonly Schedulable[],
  waiting: readonly Schedulable[],
  { rows, admitted, admittedAt }: StepDecision,
): void {
  if (admitted === 0) return;
  for (let i = 0; i < running.length; i++) if (rows[i] === 0 && pendingOf(running[i]) > 1) running[i].overtaken++;
  for (let at = 0, next = 0; next < admitted; at++) {
    if (at === admittedAt[next]) next++;
    else if (!waiting[at].awaitsPrefix) waiting[at].overtaken++;
  }
}

/** Rows for guesses of those that got their one row. They take no block that admission would leave free, so they preempt nobody. */
function addGuesses(
  running: readonly Schedulable[],
  freeBlocks: number,
  rows: number,
  logits: number,
  limits: StepLimits,
  out: StepDecision,
): void {
  let free = freeBlocks - limits.watermarkBlocks;
  let left = Math.min(rows, logits);
  for (let i = 0; i < running.length && left > 0; i++) {
    const { length, blockCount, proposed } = running[i];
    if (out.rows[i] !== 1 || proposed === 0) continue;
    const held = Math.max(blockCount, blocksFor(length, limits));
    const more = Math.min(Math.max(0, blocksFor(length + proposed, limits) - held), Math.max(0, free));
    const guesses = Math.min(proposed, left, (held + more) * limits.blockTokens - length);
    out.rows[i] += guesses;
    left -= guesses;
    free -= Math.max(0, blocksFor(length + guesses, limits) - held);
  }
}

/** Whether a lane may take rows of the sequence now. */
function isDue(work: LaneWork, { length, scheduled, inFlight }: Schedulable): boolean {
  if (work === 'all') return inFlight === 0;
  return work === 'decode' ? inFlight === 0 && length - scheduled === 1 : length - scheduled > 1;
}

/** Its next token is due, or in a step. */
function isStream({ length, scheduled, everyLogit, ending }: Schedulable): boolean {
  return !ending && !everyLogit && length - scheduled <= 1;
}

export function blocksFor(tokens: number, limits: Pick<StepLimits, 'blockTokens'>): number {
  return Math.ceil(tokens / limits.blockTokens);
}

/** Gives the candidate a chunk, of at most `rowsMax` rows, out of what is left. */
function take(left: Left, candidate: Candidate, rowsMax: number): void {
  const { everyLogit } = candidate.sequence;
  let rows = Math.min(candidate.pending, rowsMax, left.rows);
  if (everyLogit) rows = Math.min(rows, left.logits, left.judged);
  // The row of the last token needs a logit row; without one, it waits.
  else if (rows === candidate.pending && left.logits === 0) rows--;
  candidate.rows = rows;
  left.rows -= rows;
  left.logits -= logitRows(candidate);
  if (everyLogit) left.judged -= rows;
}

/** For one that goes before others. A prompt of which every row is judged leaves logit rows too: without one, no other prompt comes to its end, and none that waits begins. */
function firstRowsMax(
  { sequence }: Candidate,
  { rows, logits, judged }: Left,
  { hasOthers, letsPass, sharesJudged }: { hasOthers: boolean; letsPass: boolean; sharesJudged: boolean },
): number {
  const most = sequence.everyLogit ? Math.min(rows, logits, sharesJudged ? judged : rows) : rows;
  if (letsPass) return Math.ceil(most / 2);
  return sequence.everyLogit && hasOthers ? Math.max(1, Math.min(rows, logits - 1)) : rows;
}

function giveBack(left: Left, candidate: Candidate): void {
  left.rows += candidate.rows;
  left.logits += logitRows(candidate);
  if (candidate.sequence.everyLogit) left.judged += candidate.rows;
}

function logitRows({ rows, pending, sequence }: Candidate): number {
  if (sequence.everyLogit) return rows;
  return rows === pending ? 1 : 0;
}

function pendingOf({ length, scheduled }: Schedulable): number {
  return length - scheduled;
}
