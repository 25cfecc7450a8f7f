/**
 * Sleeping between two frames is dear where they come close together: ringing a processor that has gone idle, and being rung, cost both ends more processor time
 * than a small frame does, and delay it. So for a while after a small frame the event loop goes on turning instead, as long as frames do come that soon. Every turn
 * without a frame leaves the core to whoever else wants it.
 */
import { limits } from './limits.ts';

/** A frame that came to a sleeping process was sent about this much sooner than it was seen. */
const WAKE_MS = 0.15;
/** Weight of the latest frame in the smoothed share of those that came soon. */
const LATEST = 1 / 8;
/** Of frames so many must come soon. */
const SHARE_MIN = 0.5;
/** A turn of the event loop that took more processor time than this has done something, whatever it was. */
const EMPTY_TURN_SECONDS_MAX = 50e-6;

/** Whether it pays to stay awake: a function of the times between frames alone. */
export class FrameRhythm {
  #lastMs = Number.NEGATIVE_INFINITY;
  #soonShare = 1;

  /** A frame was sent or has arrived. */
  moved(nowMs: number): void {
    this.#lastMs = nowMs;
  }

  /** A frame has arrived. @param slept the loop was asleep when it came */
  arrived(nowMs: number, slept: boolean): void {
    const soon = nowMs - this.#lastMs <= limits.lingerMs + (slept ? WAKE_MS : 0);
    this.#soonShare += ((soon ? 1 : 0) - this.#soonShare) * LATEST;
    this.#lastMs = nowMs;
  }

  /** Until when the loop should stay awake for the next frame. */
  get untilMs(): number {
    return this.#soonShare >= SHARE_MIN ? this.#lastMs + limits.lingerMs : Number.NEGATIVE_INFINITY;
  }
}

/** Adds up the processor time of turns in which nothing was to be done. */
export class AwakeTime {
  seconds = 0;
  #since = Number.NaN;

  /** A turn without a frame ends. @param usedSeconds processor time of the thread so far */
  emptyTurn(usedSeconds: number): void {
    const turn = usedSeconds - this.#since;
    if (turn <= EMPTY_TURN_SECONDS_MAX) this.seconds += turn;
    this.#since = usedSeconds;
  }

  /** What the thread does until the end of the next empty turn is work in part. */
  busyTurn(): void {
    this.#since = Number.NaN;
  }
}

const rhythm = new FrameRhythm();
const awake = new AwakeTime();
let yieldCore: (() => number) | null = null;
let turning = false;
/** A frame was moved in this turn: what it brings to do comes before anybody else's work. */
let busy = false;

/**
 * From now on the event loop of this process lingers after frames of its links.
 * @param leaveCore lets another process have the core, and returns at once where none wants it: native code, which this package does not import. Returns the
 * processor seconds of this thread so far
 */
export function lingerAfterFrames(leaveCore: () => number): void {
  yieldCore = leaveCore;
}

/** Processor time that this process has waited awake for frames so far: any other program could have had it. */
export function awakeSeconds(): number {
  return awake.seconds;
}

/** The loop does not sleep now: who has something to look at may do so every turn. */
export function isLingering(): boolean {
  return turning;
}

/** A link has sent a frame. */
export function frameSent(bytes: number): void {
  if (yieldCore === null || bytes > limits.lingerFrameBytesMax) return;
  rhythm.moved(performance.now());
  linger();
}

/** A link has received a frame. */
export function frameArrived(bytes: number): void {
  if (yieldCore === null || bytes > limits.lingerFrameBytesMax) return;
  rhythm.arrived(performance.now(), !turning);
  linger();
}

function linger(): void {
  busy = true;
  if (turning || rhythm.untilMs < 0) return;
  turning = true;
  setImmediate(turn);
}

function turn(): void {
  turning = performance.now() < rhythm.untilMs;
  if (busy || !turning) awake.busyTurn();
  else awake.emptyTurn(yieldCore!());
  if (!turning) return;
  busy = false;
  setImmediate(turn);
}
