/**
 * Links inside one process: the smallest transport that keeps the contract, and the one whose clock and faults a test controls. Links are reliable and ordered as
 * everywhere; with a delay, frames of different links overtake one another.
 *
 *   const network = new MemoryNetwork({ seed: 7, delayMs: [0, 3] });
 *   await network.listen('memory://w0', options, accept);
 */
import { closedInTime } from './closed-in-time.ts';
import { SwitchyardError } from './errors.ts';
import { FrameInbox } from './frame-inbox.ts';
import { checkFrameLength } from './frame-length.ts';
import { frameMemory, giveBackFrame } from './frame-memory.ts';
import { fullListener } from './full-listener.ts';
import { limits } from './limits.ts';
import type { Link, LinkOptions, Listener, Transport } from './link.ts';
import { sameSecret } from './secret.ts';
import { SendWindow } from './send-window.ts';

export interface MemoryNetworkOptions {
  seed: number;
  /** Every frame takes a random time between these. */
  delayMs: readonly [number, number];
  /** Share of frames that get lost. A link whose frame was lost closes, as every transport's does. */
  loss: number;
  /** The clock: runs `task` after `delayMs`. A test may bring its own. */
  schedule: (delayMs: number, task: () => void) => void;
  frameBytesMax: number;
  pendingBytesMax: number;
}

export class MemoryNetwork implements Transport {
  readonly scheme = 'memory';
  readonly #options: MemoryNetworkOptions;
  readonly #listeners = new Map<string, MemoryListener>();
  readonly #random: () => number;

  constructor(options: Partial<MemoryNetworkOptions> = {}) {
    this.#options = {
      seed: 0,
      delayMs: [0, 0],
      loss: 0,
      schedule: realClock,
      frameBytesMax: limits.frameBytesMax,
      pendingBytesMax: limits.linkPendingBytesMax,
      ...options,
    };
    this.#random = seededRandom(this.#options.seed);
  }

  async listen(address: string, options: LinkOptions, accept: (link: Link) => void): Promise<Listener> {
    if (this.#listeners.has(address)) throw new SwitchyardError('link_closed', `${address} is in use`);
    const listener = { options, accept, links: new Set<MemoryLink>() };
    this.#listeners.set(address, listener);
    return {
      address,
      close: async () => {
        this.#listeners.delete(address);
        await Promise.all([...listener.links].map((link) => link.close()));
      },
    };
  }

  async dial(address: string, options: LinkOptions & { signal?: AbortSignal }): Promise<Link> {
    if (options.signal?.aborted)
      throw new SwitchyardError('cancelled', `dialling ${address} was aborted`, { cause: options.signal.reason });
    const listener = this.#listeners.get(address);
    if (listener === undefined) throw new SwitchyardError('link_closed', `nobody listens on ${address}`);
    if (listener.options.token !== '' && !sameSecret(options.token, listener.options.token))
      throw new SwitchyardError('unauthorized', `${address}: the cluster token is missing or wrong`);
    const full = fullListener(listener.links.size);
    if (full !== null) throw full;
    const far = new MemoryLink('memory://dialler', this.#options, this.#random);
    const near = new MemoryLink(address, this.#options, this.#random);
    near.connect(far);
    far.connect(near);
    listener.links.add(far);
    void far.closed.then(() => listener.links.delete(far));
    listener.accept(far);
    return near;
  }

  /** Cuts every link to a listener, as the death of its process would. */
  sever(address: string): void {
    for (const link of this.#listeners.get(address)?.links ?? []) link.cut(new SwitchyardError('link_closed', `${address} was cut off`));
  }

  /** Holds back (or lets go again) all frames from and to a listener, as a stopped process would: links stay open, nothing moves. */
  stall(address: string, stalled: boolean): void {
    for (const link of this.#listeners.get(address)?.links ?? []) link.stall(stalled);
  }
}

interface MemoryListener {
  options: LinkOptions;
  accept: (link: Link) => void;
  links: Set<MemoryLink>;
}

/** A frame or a goodbye (null) on its way; it is delivered when it and all before it have arrived. */
interface Flight {
  frame: Uint8Array | null;
  lost: boolean;
  arrived: boolean;
}

class MemoryLink implements Link {
  readonly transport = 'memory';
  readonly peer: string;
  readonly closed: Promise<SwitchyardError | null>;
  readonly bytes = { sent: 0, received: 0 };
  readonly #options: MemoryNetworkOptions;
  readonly #random: () => number;
  readonly #window: SendWindow;
  readonly #inbox = new FrameInbox(limits.linkEarlyBytesMax);
  readonly #flights: Flight[] = []; // from here to the other end
  #other!: MemoryLink;
  #settle!: (error: SwitchyardError | null) => void;
  #state: 'open' | 'closing' | 'closed' = 'open';
  #stalled = false;
  #inboxFull = false; // the other end's

  constructor(peer: string, options: MemoryNetworkOptions, random: () => number) {
    this.peer = peer;
    this.#options = options;
    this.#random = random;
    this.#window = new SendWindow(options.pendingBytesMax);
    this.closed = new Promise((resolve) => {
      this.#settle = resolve;
    });
  }

  connect(other: MemoryLink): void {
    this.#other = other;
  }

  get pendingBytes(): number {
    return this.#window.pendingBytes;
  }

  send(frame: Uint8Array): boolean {
    if (this.#state !== 'open') throw new SwitchyardError('link_closed', `the link to ${this.peer} is closed`);
    checkFrameLength(frame.length, this.#options.frameBytesMax);
    this.bytes.sent += frame.length;
    const room = this.#window.add(frame.length);
    const copy = frameMemory(frame.length); // The receiver owns its frame.
    copy.set(frame);
    giveBackFrame(frame);
    this.#launch(copy);
    return room;
  }

  drained(signal?: AbortSignal): Promise<void> {
    return this.#window.drained(signal);
  }

  onFrame(receive: (frame: Uint8Array) => void): void {
    this.#inbox.onFrame(receive);
  }

  pause(): void {
    this.#inbox.pause();
  }

  resume(): void {
    this.#inbox.resume();
  }

  async close(reason?: SwitchyardError): Promise<void> {
    this.#inbox.stop();
    if (this.#state === 'closed') return;
    if (reason !== undefined) this.cut(reason);
    else if (this.#state === 'open') {
      this.#state = 'closing';
      this.#launch(null);
      this.#other.#inboxFull = false; // what still comes is dropped
      this.#other.#land();
    }
    await closedInTime(this);
  }

  cut(reason: SwitchyardError): void {
    this.#ended(reason);
    const { peer } = this.#other;
    this.#options.schedule(0, () => this.#other.#ended(new SwitchyardError('link_closed', `${peer} went away`)));
  }

  stall(stalled: boolean): void {
    for (const end of [this, this.#other]) {
      end.#stalled = stalled;
      end.#land();
    }
  }

  #launch(frame: Uint8Array | null): void {
    const lost = frame !== null && this.#options.loss > 0 && this.#random() < this.#options.loss;
    const flight = { frame, lost, arrived: false };
    this.#flights.push(flight);
    const [min, max] = this.#options.delayMs;
    this.#options.schedule(min + (max - min) * this.#random(), () => {
      flight.arrived = true;
      this.#land();
    });
  }

  #land(): void {
    while (!this.#stalled && !this.#inboxFull && this.#flights[0]?.arrived && this.#other.#state !== 'closed') {
      const { frame, lost } = this.#flights.shift()!;
      if (lost) {
        this.cut(new SwitchyardError('link_closed', `a frame to ${this.peer} was lost`));
        return;
      }
      if (frame === null) {
        this.#other.#ended(null);
        this.#ended(null);
        return;
      }
      this.#window.remove(frame.length);
      if (this.#other.#state !== 'open') continue;
      this.#other.bytes.received += frame.length;
      this.#inboxFull = !this.#other.#inbox.deliver(frame, () => {
        this.#inboxFull = false;
        this.#land();
      });
    }
  }

  #ended(error: SwitchyardError | null): void {
    if (this.#state === 'closed') return;
    this.#state = 'closed';
    if (error !== null) this.#inbox.stop();
    this.#flights.length = 0;
    this.#window.close();
    this.#settle(error);
  }
}

/** No delay is still a turn of the event loop: `send` never calls the receiver itself. */
function realClock(delayMs: number, task: () => void): void {
  if (delayMs === 0) setImmediate(task);
  else setTimeout(task, delayMs);
}

/** Uniform in [0, 1), the same sequence for the same seed (mulberry32). */
function seededRandom(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}
