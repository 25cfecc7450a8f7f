/** What health is judged by, in shared memory: the health thread reads it while the main thread may be busy. */
export class HealthCounters {
  readonly memory: SharedArrayBuffer;
  readonly #values: Float64Array;

  constructor(memory: SharedArrayBuffer = new SharedArrayBuffer(fields.length * 8)) {
    this.memory = memory;
    this.#values = new Float64Array(memory);
  }

  read(): HealthReading {
    return Object.fromEntries(fields.map((field, i) => [field, this.#values[i]])) as unknown as HealthReading;
  }

  write(reading: HealthReading): void {
    fields.forEach((field, i) => {
      this.#values[i] = reading[field];
    });
  }
}

/** Milliseconds of a clock that all threads of a process share. Nobody sets it: an hour that the machine's clock jumps is no hour without a beat. */
export function steadyMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

export interface HealthReading {
  /** `steadyMs()` of the last beat of the main loop. */
  beatMs: number;
  /** 1 when every expert has a serving worker. */
  ready: number;
  draining: number;
  uncoveredExperts: number;
  missingWorkers: number;
  running: number;
  waiting: number;
  /** Longest time without a step of any worker that has work, at the beat; -1 when none has. */
  stepAgeMs: number;
}

const fields = ['beatMs', 'ready', 'draining', 'uncoveredExperts', 'missingWorkers', 'running', 'waiting', 'stepAgeMs'] as const;

export interface HealthThresholds {
  /** Work pending and no step for so long: no progress. */
  stallMs: number;
  /** The same, or no beat, for so long: not alive. */
  liveMs: number;
}

export interface HealthAnswer {
  status: number;
  body: Record<string, unknown>;
}

export type HealthQuestion = 'live' | 'ready' | 'progress';

/** The question of a path under /health; null: none of ours. */
export function healthQuestion(path: string): HealthQuestion | null {
  if (path === '/health' || path === '/health/ready') return 'ready';
  return path === '/health/live' ? 'live' : path === '/health/progress' ? 'progress' : null;
}

/**
 * Judges a reading. Pure. An idle cluster is healthy; so is a busy one, as long as steps are made.
 *
 * live: restarting the process would help. ready: requests are answered. progress: what was accepted gets on.
 */
export function judgeHealth(
  question: HealthQuestion,
  reading: HealthReading,
  nowMs: number,
  { stallMs, liveMs }: HealthThresholds,
): HealthAnswer {
  const beatAgeMs = Math.max(0, nowMs - reading.beatMs);
  const stepAgeMs = reading.stepAgeMs < 0 ? null : Math.round(reading.stepAgeMs + beatAgeMs);
  if (question === 'live') {
    const alive = beatAgeMs < liveMs && (stepAgeMs ?? 0) < liveMs;
    return {
      status: alive ? 200 : 503,
      body: { status: alive ? 'ok' : 'stuck', loop_age_ms: Math.round(beatAgeMs), last_step_age_ms: stepAgeMs },
    };
  }
  if (question === 'ready') {
    // What was true at a beat that is long ago may be so still, and yet no request is answered.
    const stuck = beatAgeMs >= liveMs;
    const ready = reading.ready === 1 && reading.draining === 0 && !stuck;
    const status = ready ? 'ok' : reading.draining === 1 ? 'draining' : stuck ? 'stuck' : 'not ready';
    return {
      status: ready ? 200 : 503,
      body: { status, uncovered_experts: reading.uncoveredExperts, missing_workers: reading.missingWorkers },
    };
  }
  const stalled = (stepAgeMs ?? 0) >= stallMs || beatAgeMs >= stallMs;
  const status = stalled ? 'stalled' : stepAgeMs === null ? 'idle' : 'ok';
  return {
    status: stalled ? 503 : 200,
    body: { status, running: reading.running, waiting: reading.waiting, last_step_age_ms: stepAgeMs, last_rebalance: null },
  };
}
