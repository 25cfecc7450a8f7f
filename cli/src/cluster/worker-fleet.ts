import { performance } from 'node:perf_hooks';
import type { Backend } from '@switchyard/proto';
import type { Child, ChildEnd } from './child-process.ts';
import { startChild } from './child-process.ts';
import type { CpuShare } from './cpu-share.ts';
import { decideRestart } from './restart-policy.ts';

export interface WorkerSpec {
  /** Its place in the plan. */
  index: number;
  /** Stable across restarts: "n0w1", or what a plan says. */
  name: string;
  node: string;
  share: CpuShare;
  backend: Backend;
}

/** A worker that ended without being asked to, and what happens next. */
export interface WorkerDeath {
  worker: WorkerSpec;
  end: ChildEnd;
  /** How long it had been ready to serve, 0 if it never was. */
  servedMs: number;
  restartMs: number;
  deathsInARow: number;
  crashLoop: boolean;
  lastLines: string[];
}

export interface FleetOptions {
  workers: WorkerSpec[];
  /** Program and flags of one worker. */
  argsOf(worker: WorkerSpec): string[];
  onDeath(death: WorkerDeath): void;
  onLine(worker: WorkerSpec, line: string): void;
  /** Milliseconds of a clock that only goes forward. */
  now?: () => number;
}

interface Place {
  worker: WorkerSpec;
  child: Child | null;
  /** When its process was first seen to hold its model; null: not yet. */
  loadedMs: number | null;
  deathsInARow: number;
  restart: NodeJS.Timeout | null;
}

/** Keeps one process alive per worker: starts them, restarts those that die (see restart-policy.ts), stops them all in order. */
export class WorkerFleet {
  readonly #options: FleetOptions;
  readonly #places: Place[];
  readonly #now: () => number;
  #stopping = false;

  constructor(options: FleetOptions) {
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
    this.#places = options.workers.map((worker) => ({ worker, child: null, loadedMs: null, deathsInARow: 0, restart: null }));
  }

  start(): void {
    for (const place of this.#places) this.#launch(place);
  }

  /** Process id of a worker, or null between its death and its restart. */
  pidOf(name: string): number | null {
    return this.#places.find((place) => place.worker.name === name)?.child?.pid ?? null;
  }

  /** Notes the processes that have loaded their model. To be told now and then: a worker that dies after this has not died of loading. */
  noteLoaded(pids: ReadonlySet<number>): void {
    for (const place of this.#places) if (place.child && pids.has(place.child.pid)) place.loadedMs ??= this.#now();
  }

  /** Stops every worker: asks first, kills those that still run after `graceMs`. Nothing restarts afterwards. */
  async stop(graceMs: number): Promise<void> {
    this.#stopping = true;
    for (const place of this.#places) if (place.restart) clearTimeout(place.restart);
    await Promise.all(this.#places.map((place) => place.child?.stop(graceMs)));
  }

  #launch(place: Place): void {
    place.restart = null;
    place.loadedMs = null;
    const child = startChild({
      args: this.#options.argsOf(place.worker),
      onStderr: (line) => this.#options.onLine(place.worker, line),
      onStdout: (line) => this.#options.onLine(place.worker, line),
    });
    place.child = child;
    void child.ended.then((end) => {
      place.child = null;
      if (this.#stopping) return;
      const servedMs = place.loadedMs === null ? 0 : this.#now() - place.loadedMs;
      const { delayMs, deathsInARow, crashLoop } = decideRestart(place.deathsInARow, servedMs, Math.random());
      place.deathsInARow = deathsInARow;
      place.restart = setTimeout(() => this.#launch(place), delayMs);
      this.#options.onDeath({
        worker: place.worker,
        end,
        servedMs,
        restartMs: delayMs,
        deathsInARow,
        crashLoop,
        lastLines: child.lastLines(),
      });
    });
  }
}
