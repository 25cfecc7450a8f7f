import type { CoreGroup } from './host-model.ts';

/** Work that one worker does without a break: parts in order, each with what follows from it. */
export interface Job {
  parts: { seconds: number; done: () => void }[];
}

/** A single-threaded program: its jobs wait in two queues, and the first is emptied before the second. */
export interface Server {
  /** Where it runs; it is on one group of cores all the time. */
  cores: SharedCores | null;
  queue: Job[];
  /** Jobs for others: one when nothing of the own waits. */
  serving: Job[];
  running: Job | null;
  /** Seconds left of the running job's first part, on a core of its own. */
  left: number;
  /** Seconds that it has had a core so far, as its system counts them. */
  onCore: number;
  /** Seconds that it takes longer to begin after it has slept. */
  wake: number;
  /** It has slept since its last job; who waits awake is told so when something comes. */
  asleep: boolean;
  /** Times that it began after having slept. */
  wakes: number;
  /** Relative; a part takes seconds / speed. */
  speed: number;
  /** Has a core before the others do. */
  first: boolean;
  /** Called when a job is taken from a queue: it may take others along. */
  onBegin: ((job: Job) => void) | null;
}

export function server({ speed = 1, wake = 0, first = false } = {}): Server {
  return {
    ...{ cores: null, queue: [], serving: [], running: null, left: 0, onCore: 0, asleep: true, wakes: 0, onBegin: null },
    ...{ wake, speed, first },
  };
}

/** It does nothing, and nothing waits for it. */
export function isIdle({ running, queue, serving }: Server): boolean {
  return running === null && queue.length === 0 && serving.length === 0;
}

/** Share of the cores that programs with precedence leave at least. */
const leastLeft = 0.05;

/** Times closer than this are the same. Seconds. */
export const instant = 1e-12;

/** Servers that share cores: with more of them at work than there are cores, each gets an equal part of what the first ones leave. */
export class SharedCores {
  /** When some part will be done, or Infinity; as of the last call to `settle`. */
  due = Infinity;
  private readonly cores: number;
  private readonly crowdedSpeed: CoreGroup['crowdedSpeed'];
  private readonly servers: readonly Server[];
  private busy: Server[] = [];
  private at = 0;
  private changed = true;
  private speed = 1;
  /** Part of a core that each of those at work has: of the ones that come first, and of the others. */
  private firstPart = 1;
  private part = 1;

  constructor(cores: number, crowdedSpeed: CoreGroup['crowdedSpeed'], servers: readonly Server[]) {
    this.cores = cores;
    this.crowdedSpeed = crowdedSpeed;
    this.servers = servers;
    for (const one of servers) one.cores = this;
  }

  give(to: Server, job: Job, queue: 'queue' | 'serving' = 'queue'): void {
    to[queue].push(job);
    this.changed = true;
  }

  /** After jobs were given or parts done, all at time `now`: those that have nothing to do begin what waits. */
  settle(now: number): void {
    if (!this.changed) return;
    this.changed = false;
    this.progress(now);
    this.begin();
    let least = Infinity;
    for (const one of this.busy) least = Math.min(least, one.left / (this.partOf(one) * this.speed));
    this.due = now + least;
  }

  /** Time is `now`, at which parts are due: what is finished does what follows from it. */
  finish(now: number): void {
    this.progress(now);
    this.changed = true;
    // A time of days has no digits for what is left of a part: it is done when no later time comes of it.
    const done = (one: Server) => one.left <= instant || now + one.left / (this.partOf(one) * this.speed) <= now;
    for (const one of this.busy.filter(done)) finishPart(one);
  }

  private progress(now: number): void {
    const seconds = now - this.at;
    this.at = now;
    for (const one of this.busy) {
      const onCore = seconds * this.partOf(one);
      one.left -= onCore * this.speed;
      one.onCore += onCore;
    }
  }

  private partOf({ first }: Server): number {
    return first ? this.firstPart : this.part;
  }

  private begin(): void {
    for (const one of this.servers) {
      if (one.running !== null) continue;
      const next = one.queue.shift() ?? one.serving.shift();
      if (next === undefined) {
        one.asleep = true;
        continue;
      }
      one.running = next;
      one.onBegin?.(next);
      one.left = (next.parts[0].seconds + (one.asleep ? one.wake : 0)) / one.speed;
      if (one.asleep) one.wakes++;
      one.asleep = false;
    }
    this.busy = this.servers.filter(({ running }) => running !== null);
    const first = this.busy.filter((one) => one.first).length;
    const { beside, sharing } = this.crowdedSpeed;
    this.speed = this.busy.length <= 1 ? 1 : this.busy.length <= this.cores ? beside : sharing;
    this.firstPart = Math.min(1, this.cores / Math.max(1, first));
    // Whoever comes first leaves the others something, as schedulers see to.
    this.part = Math.min(1, Math.max(this.cores - first, this.cores * leastLeft) / Math.max(1, this.busy.length - first));
  }
}

function finishPart(one: Server): void {
  const job = one.running!;
  const part = job.parts.shift()!;
  if (job.parts.length === 0) one.running = null;
  else one.left = job.parts[0].seconds / one.speed;
  part.done();
}
