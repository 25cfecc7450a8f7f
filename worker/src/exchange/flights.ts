import {
  type CombineFrame,
  type DispatchFrame,
  type ErrorCode,
  type LinkStats,
  limits,
  parseFrame,
  SwitchyardError,
} from '@switchyard/proto';
import { type Dial, PeerLinks } from './peer-links.ts';
import { lasts } from './refusal.ts';

/** Who sent a dispatch frame and waits for its answer. Exactly one of the two is called, once. */
export interface Cargo {
  /** The frame's: what was asked of a whole node may be refused for a neighbour's sake. */
  readonly scope: DispatchFrame['scope'];
  /** Its link has the frame; it may have been held back until now. Not called for one that is lost before. */
  departed?(): void;
  /** @throws SwitchyardError when the answer does not fit; its link is cut then, and `lost` follows */
  landed(answer: CombineFrame): void;
  /** It will not come back. */
  lost(code: ErrorCode, why: string): void;
}

/**
 * `urgent` and `bulk` frames travel on connections of their own, in both directions: the few rows of a decode step do not queue behind a prompt's megabytes.
 */
export type Urgency = 'urgent' | 'bulk';
const urgencies: readonly Urgency[] = ['urgent', 'bulk'];

/** How late a deadline may be noticed: an eighth of it. */
const CHECKS_PER_DEADLINE = 8;

/**
 * Whoever refuses for its own sake (it loads its model, say), or stands still, is asked last for so long, or until it is announced again: else every layer would
 * ask it first. One question in so long costs steps nothing.
 */
const AVOID_MS = 1_000;

interface Flight {
  worker: number;
  urgency: Urgency;
  /** While it is held back; the link's once it has departed. */
  frame: Uint8Array | null;
  rows: number;
  cargo: Cargo;
  sentMs: number;
  /** What `stoodStillMs` was then. */
  stoodStillMs: number;
  deadlineMs: number;
}

export interface FlightsOptions {
  workers: number;
  rowDeadlineMs: number;
  dial: Dial;
  /** A worker can be reached, on every connection, or no longer. Called before the cargo that was on its way is lost. */
  onReachable: (worker: number, reachable: boolean) => void;
  /** A worker is to be asked only for what nobody else can do, or again like any other. */
  onAvoided: (worker: number, avoided: boolean) => void;
}

/** Dispatch frames on their way to other workers, whoever of this worker sent them: each is answered, or lost with a reason, by its deadline. */
export class Flights {
  /** Rows on their way to each worker: how busy it is, as far as this worker knows. */
  readonly rows: Int32Array;
  private readonly options: FlightsOptions;
  private readonly links: Readonly<Record<Urgency, PeerLinks>>;
  /** By tag. */
  private readonly flights = new Map<number, Flight>();
  /** [urgency][worker] tags that wait until fewer frames of their link are unanswered. */
  private readonly held: Readonly<Record<Urgency, number[][]>>;
  /** By worker, what ends the time in which it is asked last. */
  private readonly avoided = new Map<number, NodeJS.Timeout>();
  private readonly unanswered: Readonly<Record<Urgency, Int32Array>>;
  private lastTag = 0;
  private readonly watchdog: NodeJS.Timeout;
  private readonly checkMs: number;
  private lastCheckMs = performance.now();
  /** For so long this process was stopped, or in one long call, while answers that had arrived lay unread: no worker is late for that. */
  private stoodStillMs = 0;

  constructor(options: FlightsOptions) {
    const { workers, rowDeadlineMs, dial } = options;
    this.options = options;
    this.rows = new Int32Array(workers);
    const linksOf = (urgency: Urgency) =>
      new PeerLinks(dial, {
        up: (worker) => this.onUp(worker),
        down: (worker, reason) => this.onDown(worker, urgency, reason),
        frame: (worker, frame) => this.receive(worker, urgency, frame),
      });
    this.links = { urgent: linksOf('urgent'), bulk: linksOf('bulk') };
    this.held = { urgent: Array.from({ length: workers }, () => []), bulk: Array.from({ length: workers }, () => []) };
    this.unanswered = { urgent: new Int32Array(workers), bulk: new Int32Array(workers) };
    // Not in the path of any row: it only looks for rows that are late.
    this.checkMs = Math.max(10, rowDeadlineMs / CHECKS_PER_DEADLINE);
    this.watchdog = setInterval(() => this.checkDeadlines(), this.checkMs);
    this.watchdog.unref();
  }

  /** The worker is there, and can be dialled at these addresses from now on, best first. */
  announce(worker: number, addresses: readonly string[]): void {
    this.release(worker);
    for (const urgency of urgencies) this.links[urgency].announce(worker, addresses);
  }

  /** Nobody dials those that are not among these, until they are announced again. */
  onlyThese(there: ReadonlySet<number>): void {
    for (const urgency of urgencies) this.links[urgency].onlyThese(there);
  }

  /** Resolves when the announced worker has its links, or has been dialled since it was announced in vain. */
  async settled(worker: number): Promise<void> {
    await Promise.all(urgencies.map((urgency) => this.links[urgency].settled(worker)));
  }

  /** For the header of the next frame: same tag = same work. */
  nextTag(): number {
    return ++this.lastTag;
  }

  /**
   * Sends a sealed dispatch frame that carries `tag`. Never throws: what cannot be sent is lost at once.
   * @param deadlineMs the frame is answered within it; else the worker stands still, and its links are cut
   * @returns true when bytes of it wait for the event loop
   */
  send(
    worker: number,
    urgency: Urgency,
    frame: Uint8Array,
    tag: number,
    rows: number,
    cargo: Cargo,
    deadlineMs = this.options.rowDeadlineMs,
  ): boolean {
    const { stoodStillMs } = this;
    this.flights.set(tag, { worker, urgency, frame, rows, cargo, sentMs: performance.now(), stoodStillMs, deadlineMs });
    this.rows[worker] += rows;
    // The far end cuts off whoever has more unanswered.
    if (this.unanswered[urgency][worker] >= limits.framesInFlightMax) {
      this.held[urgency][worker].push(tag);
      return false;
    }
    return this.depart(tag);
  }

  /** One entry a peer. */
  stats(): LinkStats[] {
    const bulk = new Map(this.links.bulk.stats().map((stats) => [stats.peer, stats]));
    return this.links.urgent.stats().map((urgent) => {
      const other = bulk.get(urgent.peer);
      if (other === undefined) return urgent;
      return {
        peer: urgent.peer,
        transport: urgent.transport || other.transport,
        bytesSent: urgent.bytesSent + other.bytesSent,
        bytesReceived: urgent.bytesReceived + other.bytesReceived,
        framesSent: urgent.framesSent + other.framesSent,
        roundTripSeconds: urgent.roundTripSeconds + other.roundTripSeconds,
        roundTrips: urgent.roundTrips + other.roundTrips,
      };
    });
  }

  async close(): Promise<void> {
    clearInterval(this.watchdog);
    for (const timer of this.avoided.values()) clearTimeout(timer);
    this.avoided.clear();
    await Promise.all(urgencies.map((urgency) => this.links[urgency].close()));
  }

  private depart(tag: number): boolean {
    const flight = this.flights.get(tag)!;
    const { worker, urgency } = flight;
    const frame = flight.frame!;
    flight.frame = null;
    this.unanswered[urgency][worker]++;
    try {
      const link = this.links[urgency].link(worker);
      if (link === null) throw new SwitchyardError('link_closed', 'there is no link to it');
      link.send(frame);
      this.links[urgency].countFrame(worker);
      flight.cargo.departed?.();
      return link.pendingBytes > 0;
    } catch (error) {
      this.lose(tag, 'worker_lost', error instanceof Error ? error.message : String(error));
      return false;
    }
  }

  private receive(worker: number, urgency: Urgency, bytes: Uint8Array): void {
    try {
      const frame = parseFrame(bytes);
      if (frame.kind === 'dispatch') throw new SwitchyardError('bad_frame', 'a dispatch frame arrived on a link that answers only');
      const flight = this.flights.get(frame.tag);
      // What is held back has not been asked yet.
      const asked = flight !== undefined && flight.worker === worker && flight.urgency === urgency && flight.frame === null;
      if (!asked) {
        throw new SwitchyardError('bad_frame', `an answer to tag ${frame.tag}, which is not in flight`);
      }
      if (frame.kind === 'error') {
        if (flight.cargo.scope === 'worker' && lasts(frame.code)) this.avoid(worker);
        this.lose(frame.tag, frame.code, frame.message);
        return;
      }
      flight.cargo.landed(frame);
      this.links[urgency].countRoundTrip(worker, (performance.now() - flight.sentMs) / 1000);
      this.forget(frame.tag);
    } catch (error) {
      const reason = error instanceof SwitchyardError ? error : new SwitchyardError('bad_frame', String(error), { cause: error });
      this.links[urgency].cut(worker, reason);
    }
  }

  private onUp(worker: number): void {
    if (urgencies.every((urgency) => this.links[urgency].link(worker) !== null)) this.options.onReachable(worker, true);
  }

  private onDown(worker: number, urgency: Urgency, reason: SwitchyardError): void {
    this.options.onReachable(worker, false);
    const code = reason.code === 'deadline_exceeded' ? reason.code : 'worker_lost';
    this.held[urgency][worker].length = 0;
    for (const [tag, flight] of [...this.flights]) {
      if (flight.worker === worker && flight.urgency === urgency) this.lose(tag, code, reason.message);
    }
  }

  private avoid(worker: number): void {
    clearTimeout(this.avoided.get(worker));
    this.avoided.set(worker, setTimeout(() => this.release(worker), AVOID_MS).unref());
    this.options.onAvoided(worker, true);
  }

  private release(worker: number): void {
    clearTimeout(this.avoided.get(worker));
    if (this.avoided.delete(worker)) this.options.onAvoided(worker, false);
  }

  private lose(tag: number, code: ErrorCode, why: string): void {
    const flight = this.flights.get(tag);
    if (flight === undefined) return;
    this.forget(tag);
    flight.cargo.lost(code, why);
  }

  /** Takes a flight off the list; the next one that waits for its link departs. */
  private forget(tag: number): void {
    const { worker, urgency, rows, frame } = this.flights.get(tag)!;
    this.flights.delete(tag);
    this.rows[worker] -= rows;
    if (frame !== null) return;
    this.unanswered[urgency][worker]--;
    const next = this.held[urgency][worker].shift();
    if (next !== undefined) this.depart(next);
  }

  private checkDeadlines(): void {
    const now = performance.now();
    this.stoodStillMs += Math.max(0, now - this.lastCheckMs - this.checkMs);
    this.lastCheckMs = now;
    for (const { worker, sentMs, stoodStillMs, deadlineMs } of this.flights.values()) {
      const waitedMs = now - sentMs - (this.stoodStillMs - stoodStillMs);
      if (waitedMs < deadlineMs) continue;
      const waited = `no answer for ${Math.round(waitedMs)} ms; the limit is ${Math.round(deadlineMs)}`;
      const reason = new SwitchyardError('deadline_exceeded', waited);
      this.avoid(worker);
      // The worker stands still: its other connection is no better.
      for (const each of urgencies) this.links[each].cut(worker, reason);
    }
  }
}
