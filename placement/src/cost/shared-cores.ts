import type { CoreGroup } from './host-model.ts';

/** Work that one worker does without a break: parts in order, each with what follows from it. */
export interface Job {
  parts: { seconds: number; done: () => void }[];
}

/** A single-threaded program: its jobs wait in two queues, and the first is emptied before the second. */
export interface Server {
  queue: Job[];
  /** Jobs for others: one when nothing of the own waits. */
  serving: Job[];
  running: Job | null;
  /** Seconds left of the running job's first part, on a core of its own. */
  left: number;
  /** Seconds that it has had a core so far, as its system counts them. */
  onCore: number;
  /** Seconds that it takes longer to begin after it had nothing to do. */
  wake: number;
  /** It has had nothing to do since its last job. */
  asleep: boolean;
  /** Times that it began after having had nothing to do. */
  wakes: number;
  /** Relative; a part takes seconds / speed. */
  speed: number;
  /** Has a core before the others do. */
  first: boolean;
  /** Called when a job is taken from a queue: it may take others along. */
  onBegin: ((job: Job) => void) | null;
}

export function server({ speed = 1, wake = 0, first = false } = {}): Server {
  return { queue: [], serving: [], running: null, left: 0, onCore: 0, wake, asleep: true, wakes: 0, speed, first, onBegin: null };
}

/** Share of the cores that programs with precedence leave at least. */
const leastLeft = 0.05;

/** Servers that share cores: with more of them at work than there are cores, each gets an equal part of what the first ones leave. */
export class SharedCores {
  private readonly cores: number;
  private readonly crowdedSpeed: CoreGroup['crowdedSpeed'];
  private readonly servers: readonly Server[];
  private busy: Server[] = [];
  private speed = 1;
  /** Part of a core that each of those at work has: of the ones that come first, and of the others. */
  private firstPart = 1;
  private part = 1;

  constructor(cores: number, crowdedSpeed: CoreGroup['crowdedSpeed'], servers: readonly Server[]) {
    this.cores = cores;
    this.crowdedSpeed = crowdedSpeed;
    this.servers = servers;
  }

  /** Seconds until some part is done, or Infinity. */
  next(): number {
    this.begin();
    let least = Infinity;
    for (const one of this.busy) least = Math.min(least, one.left / (this.partOf(one) * this.speed));
    return least;
  }

  /** Lets `seconds` pass; finished parts do what follows from them. No part may be due earlier. */
  advance(seconds: number): void {
    const finished: Server[] = [];
    for (const one of this.busy) {
      const onCore = seconds * this.partOf(one);
      one.left -= onCore * this.speed;
      one.onCore += onCore;
      if (one.left <= 1e-12) finished.push(one);
    }
    for (const one of finished) this.finishPart(one);
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

  private finishPart(one: Server): void {
    const job = one.running!;
    const part = job.parts.shift()!;
    if (job.parts.length === 0) one.running = null;
    else one.left = job.parts[0].seconds / one.speed;
    part.done();
  }
}
