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
}

/** What admitting a waiting sequence would cost now. */
export interface AdmissionCost {
  /** Blocks taken out of the free list, cached ones that nobody holds included. */
  blocks: number;
  /** Tokens that the prefix cache already holds. */
  cached: number;
}

/** Asked of waiting sequences in order, whose admission follows unless blocks are too few. Null: better not yet. */
export type AdmissionRule = (sequence: Schedulable) => AdmissionCost | null;

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
  admissionCost: AdmissionRule,
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
  decidePrompts(work, running, waiting, free, limits, left, admissionCost, out);
  if (work === 'all' && left.rows === rowsLeft) addGuesses(running, free, rowsLeft, left.logits, limits, out);
}

/** What a step has left to give. `judged`: rows of prompts that need the logits of each. */
interface Left {
  rows: number;
  logits: number;
  judged: number;
}

/**
 * The oldest prompt goes first, so that each comes to its end. But while another is less than half as long as what it still has, it takes half of the rows at most:
 * by then that other ends sooner by more than the oldest ends later. The rest goes to the shortest first, and what they leave to the oldest again. Waiting ones are
 * admitted in order, each leaving half of the rows for shorter ones behind it.
 */
function decidePrompts(
  work: LaneWork,
  running: readonly Schedulable[],
  waiting: readonly Schedulable[],
  freeBlocks: number,
  limits: StepLimits,
  left: Left,
  admissionCost: AdmissionRule,
  out: StepDecision,
): void {
  let free = freeBlocks;
  /** Oldest first. */
  const due: number[] = [];
  let kept = 0;
  let wanting = false;
  for (let i = 0; i < running.length; i++) {
    if (out.preempted[i] === 1) continue;
    kept++;
    if (running[i].ending) continue;
    // A stream takes the block that it lacks from a younger sequence that is in no step: one with a chunk in some lane at all times would never let go.
    wanting ||= work === 'prefill' && blocksFor(running[i].length, limits) - running[i].blockCount > free;
    if (!wanting && pendingOf(running[i]) > 1 && isDue(work, running[i])) due.push(i);
  }
  const lacking = wanting || kept < running.length;
  const mayAdmit = () => !lacking && kept + out.admitted < limits.sequences;
  const shortestWaiting = mayAdmit() ? shortest(waiting, 0) : Number.POSITIVE_INFINITY;

  const give = (i: number, rowsMax: number) => {
    giveBack(left, running[i], out.rows[i]);
    out.rows[i] = take(left, running[i], pendingOf(running[i]), rowsMax);
  };
  const [oldest, ...others] = due;
  others.sort((a, b) => pendingOf(running[a]) - pendingOf(running[b]));
  const later: number[] = [];
  if (oldest !== undefined) {
    const shortestOther = Math.min(shortestWaiting, others.length === 0 ? Number.POSITIVE_INFINITY : pendingOf(running[others[0]]));
    give(oldest, yields(running[oldest], shortestOther) ? Math.ceil(left.rows / 2) : left.rows);
    later.push(oldest);
  }
  for (const i of others) {
    if (yields(running[i], shortestWaiting)) later.push(i);
    else give(i, left.rows);
  }

  // As many as could run are looked at, however many are better not admitted yet.
  const looked = Math.min(waiting.length, limits.sequences);
  for (let i = 0; i < looked && mayAdmit() && left.rows > 0 && left.logits > 0; i++) {
    const sequence = waiting[i];
    const cost = admissionCost(sequence);
    if (cost === null) continue;
    // With nothing else running there is nobody to leave blocks for.
    const reserve = kept + out.admitted === 0 ? 0 : limits.watermarkBlocks;
    if (free - cost.blocks < reserve) break;
    free -= cost.blocks;
    const pending = sequence.length - cost.cached;
    const rowsMax = 2 * shortest(waiting, i + 1) < pending ? Math.ceil(left.rows / 2) : left.rows;
    out.rows[running.length + out.admitted] = take(left, sequence, pending, rowsMax);
    out.admittedAt[out.admitted++] = i;
  }
  for (const i of later) give(i, left.rows + out.rows[i]);
}

/** The sequence is so much longer than another that it lets it pass. */
function yields(sequence: Schedulable, otherPending: number): boolean {
  return 2 * otherPending < pendingOf(sequence);
}

/** Tokens of the shortest from `first` on; some of them may be cached. */
function shortest(waiting: readonly Schedulable[], first: number): number {
  let length = Number.POSITIVE_INFINITY;
  for (let i = first; i < waiting.length; i++) length = Math.min(length, waiting[i].length);
  return length;
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

/** Takes a chunk of `pending` tokens, of at most `rowsMax` rows, out of what is left; returns its rows. */
function take(left: Left, { everyLogit }: Schedulable, pending: number, rowsMax: number): number {
  let rows = Math.min(pending, rowsMax, left.rows);
  if (everyLogit) rows = Math.min(rows, left.logits, left.judged);
  // The row of the last token needs a logit row; without one, it waits.
  else if (rows === pending && left.logits === 0) rows--;
  left.rows -= rows;
  left.logits -= logitRows(rows, pending, everyLogit);
  if (everyLogit) left.judged -= rows;
  return rows;
}

function giveBack(left: Left, sequence: Schedulable, rows: number): void {
  left.rows += rows;
  left.logits += logitRows(rows, pendingOf(sequence), sequence.everyLogit);
  if (sequence.everyLogit) left.judged += rows;
}

function logitRows(rows: number, pending: number, everyLogit: boolean): number {
  if (everyLogit) return rows;
  return rows === pending ? 1 : 0;
}

function pendingOf({ length, scheduled }: Schedulable): number {
  return length - scheduled;
}
