/** Work that one worker does without a break: parts in order, each with what follows from it. */
export interface Job {
  parts: { seconds: number; done: () => void }[];
}

/** A single-threaded worker: its jobs wait in a queue. */
export interface Server {
  queue: Job[];
  running: Job | null;
  /** Seconds left of the running job's first part, on a core of its own. */
  left: number;
  /** Seconds of core time so far. */
  worked: number;
  /** Relative; a part takes seconds / speed. */
  speed: number;
  /** Called when a job is taken from the queue: it may take others along. */
  onBegin: ((job: Job) => void) | null;
}

export function server(speed = 1): Server {
  return { queue: [], running: null, left: 0, worked: 0, speed, onBegin: null };
}

/** Servers that share cores: with more of them at work than there are cores, each gets an equal part. */
export class SharedCores {
  private readonly cores: number;
  private readonly servers: readonly Server[];
  private busy: Server[] = [];

  constructor(cores: number, servers: readonly Server[]) {
    this.cores = cores;
    this.servers = servers;
  }

  /** Seconds until some part is done, or Infinity. */
  next(): number {
    this.begin();
    let least = Infinity;
    for (const { left } of this.busy) least = Math.min(least, left);
    return least / this.rate;
  }

  /** Lets `seconds` pass; finished parts do what follows from them. No part may be due earlier. */
  advance(seconds: number): void {
    const worked = seconds * this.rate;
    const finished: Server[] = [];
    for (const one of this.busy) {
      one.left -= worked;
      one.worked += worked;
      if (one.left <= 1e-12) finished.push(one);
    }
    for (const one of finished) this.finishPart(one);
  }

  private get rate(): number {
    return Math.min(1, this.cores / Math.max(1, this.busy.length));
  }

  private begin(): void {
    for (const one of this.servers) {
      if (one.running !== null || one.queue.length === 0) continue;
      one.running = one.queue.shift()!;
      one.onBegin?.(one.running);
      one.left = one.running.parts[0].seconds / one.speed;
    }
    this.busy = this.servers.filter(({ running }) => running !== null);
  }

  private finishPart(one: Server): void {
    const job = one.running!;
    const part = job.parts.shift()!;
    if (job.parts.length === 0) one.running = null;
    else one.left = job.parts[0].seconds / one.speed;
    part.done();
  }
}
