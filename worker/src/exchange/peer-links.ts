import { type Link, type LinkStats, SwitchyardError } from '@switchyard/proto';

/** Opens a link to the first of the addresses that answers. */
export type Dial = (addresses: readonly string[], signal: AbortSignal) => Promise<Link>;

/** What becomes of the links; all calls come from the event loop, never from inside a call to this class. */
export interface PeerEvents {
  up(worker: number): void;
  /** The link is gone, or could not be made. `reason` says why. */
  down(worker: number, reason: SwitchyardError): void;
  frame(worker: number, frame: Uint8Array): void;
}

const REDIAL_MS_MIN = 50;
const REDIAL_MS_MAX = 2_000;

/**
 * This home's links to the workers that host experts for it, one each, dialled by the home: dispatches leave on them and combines return. A link that breaks is
 * dialled again with growing pauses for as long as the worker is said to be there; an announcement of it (it has restarted, perhaps elsewhere) dials at once.
 */
export class PeerLinks {
  private readonly dial: Dial;
  private readonly events: PeerEvents;
  private readonly peers = new Map<number, Peer>();
  private closed = false;

  constructor(dial: Dial, events: PeerEvents) {
    this.dial = dial;
    this.events = events;
  }

  /** The worker can be dialled at these addresses from now on, best first. An unchanged address of a link that stands changes nothing. */
  announce(worker: number, addresses: readonly string[]): void {
    if (this.closed) return;
    const known = this.peers.get(worker);
    if (known !== undefined) {
      known.moveTo(addresses);
      return;
    }
    this.peers.set(worker, new Peer(worker, addresses, this.dial, this.events));
  }

  /** No others are there now. A link to one that has left may stand; it is not dialled again before it is announced. */
  onlyThese(there: ReadonlySet<number>): void {
    for (const [worker, peer] of this.peers) if (!there.has(worker)) peer.hasLeft = true;
  }

  /** The open link to a worker, or null. */
  link(worker: number): Link | null {
    return this.peers.get(worker)?.link ?? null;
  }

  /** Resolves when the announced worker has a link, or has been dialled since it was announced in vain. */
  async settled(worker: number): Promise<void> {
    await this.peers.get(worker)?.settled();
  }

  /** A peer broke the protocol or its deadline: the link is cut, and dialled anew. */
  cut(worker: number, reason: SwitchyardError): void {
    void this.peers.get(worker)?.link?.close(reason);
  }

  countFrame(worker: number): void {
    this.peers.get(worker)!.framesSent++;
  }

  countRoundTrip(worker: number, seconds: number): void {
    const peer = this.peers.get(worker)!;
    peer.roundTrips++;
    peer.roundTripSeconds += seconds;
  }

  stats(): LinkStats[] {
    return [...this.peers.values()].map((peer) => peer.stats());
  }

  async close(): Promise<void> {
    this.closed = true;
    await Promise.all([...this.peers.values()].map((peer) => peer.close()));
  }
}

class Peer {
  readonly worker: number;
  link: Link | null = null;
  framesSent = 0;
  roundTrips = 0;
  roundTripSeconds = 0;
  /** Since it was last announced. */
  hasLeft = false;
  private addresses: readonly string[];
  private readonly dial: Dial;
  private readonly events: PeerEvents;
  private closed = false;
  /** Of the dial under way. */
  private attempt = new AbortController();
  /** Ends the pause before the next attempt. */
  private hurry: () => void = () => {};
  private announcements = 1;
  private moves = 0;
  /** Who waits for the outcome of dialling. */
  private waiting: (() => void)[] = [];
  /** Bytes of links that are closed, and the last transport used. */
  private past = { sent: 0, received: 0 };
  private transport = '';

  constructor(worker: number, addresses: readonly string[], dial: Dial, events: PeerEvents) {
    this.worker = worker;
    this.addresses = addresses;
    this.dial = dial;
    this.events = events;
    void this.keepConnected();
  }

  /** Dials at once where there is no link; one to another address is given up, whether it stands or is being made. */
  moveTo(addresses: readonly string[]): void {
    const moved = addresses.join() !== this.addresses.join();
    this.addresses = addresses;
    this.hasLeft = false;
    this.announcements++;
    if (moved) {
      void this.link?.close(new SwitchyardError('link_closed', `worker ${this.worker} has moved to ${addresses.join(', ')}`));
      this.link = null;
      this.moves++;
      this.attempt.abort();
    }
    this.hurry();
  }

  stats(): LinkStats {
    return {
      peer: this.worker,
      bytesSent: this.past.sent + (this.link?.bytes.sent ?? 0),
      bytesReceived: this.past.received + (this.link?.bytes.received ?? 0),
      framesSent: this.framesSent,
      transport: this.transport,
      roundTripSeconds: this.roundTripSeconds,
      roundTrips: this.roundTrips,
    };
  }

  async close(): Promise<void> {
    this.closed = true;
    this.attempt.abort();
    this.hurry();
    await this.link?.close();
  }

  /** Resolves when there is a link, or the addresses known now have been dialled in vain. */
  settled(): Promise<void> {
    if (this.link !== null) return Promise.resolve();
    return new Promise((resolve) => {
      this.waiting.push(resolve);
    });
  }

  private async keepConnected(): Promise<void> {
    let pauseMs = REDIAL_MS_MIN;
    while (!this.closed) {
      const { announcements, moves } = this;
      const wasOpen = await this.connectOnce();
      // Elsewhere by now, and not tried there yet.
      if (moves !== this.moves) continue;
      this.settle();
      pauseMs = wasOpen ? REDIAL_MS_MIN : Math.min(pauseMs * 2, REDIAL_MS_MAX);
      if (!this.closed && announcements === this.announcements) await this.pause(this.hasLeft ? null : pauseMs);
    }
    this.settle();
  }

  private settle(): void {
    for (const resolve of this.waiting.splice(0)) resolve();
  }

  /** Dials and stays until the link ends. True when there was one. */
  private async connectOnce(): Promise<boolean> {
    let link: Link;
    this.attempt = new AbortController();
    const { signal } = this.attempt;
    try {
      link = await this.dial(this.addresses, signal);
    } catch (error) {
      if (signal.aborted) return false;
      this.events.down(
        this.worker,
        error instanceof SwitchyardError ? error : new SwitchyardError('link_closed', String(error), { cause: error }),
      );
      return false;
    }
    if (signal.aborted) {
      void link.close(); // It came too late for anybody to want it.
      return false;
    }
    link.onFrame((frame) => this.events.frame(this.worker, frame));
    this.link = link;
    this.transport = link.transport;
    this.events.up(this.worker);
    this.settle();
    const reason = await link.closed;
    this.link = null;
    this.past.sent += link.bytes.sent;
    this.past.received += link.bytes.received;
    this.events.down(this.worker, reason ?? new SwitchyardError('link_closed', 'the other end closed the link'));
    return true;
  }

  /** Null: until somebody is in a hurry. */
  private pause(ms: number | null): Promise<void> {
    return new Promise((resolve) => {
      const timer = ms === null ? undefined : setTimeout(resolve, ms);
      timer?.unref();
      this.hurry = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
