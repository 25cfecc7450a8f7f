import type { Worker } from 'node:worker_threads';
import { SwitchyardError } from '@switchyard/proto';
import { startThread } from '../thread.ts';
import {
  type HealthAnswer,
  HealthCounters,
  type HealthQuestion,
  type HealthReading,
  type HealthThresholds,
  judgeHealth,
  steadyMs,
} from './health-counters.ts';
import type { HealthThreadData } from './health-thread.ts';

const BEAT_MS = 100;

/** Keeps the shared reading current, and answers from it. */
export class Health {
  readonly #counters = new HealthCounters();
  readonly #observe: () => Omit<HealthReading, 'beatMs'>;
  readonly #thresholds: HealthThresholds;
  #beat: NodeJS.Timeout | undefined;
  #thread: Worker | null = null;

  constructor(observe: () => Omit<HealthReading, 'beatMs'>, thresholds: HealthThresholds) {
    this.#observe = observe;
    this.#thresholds = thresholds;
    this.update();
  }

  /** Until `close`. */
  start(): void {
    this.#beat = setInterval(() => this.update(), BEAT_MS);
    this.#beat.unref();
  }

  update(): void {
    this.#counters.write({ beatMs: steadyMs(), ...this.#observe() });
  }

  answer(question: HealthQuestion): HealthAnswer {
    this.update();
    return judgeHealth(question, this.#counters.read(), steadyMs(), this.#thresholds);
  }

  /** @returns the port. @throws SwitchyardError `link_closed` when it cannot listen there */
  async serve(host: string, port: number): Promise<number> {
    const data: HealthThreadData = { memory: this.#counters.memory, host, port, thresholds: this.#thresholds };
    const thread = startThread('health/health-thread', data);
    this.#thread = thread;
    return await new Promise((resolve, reject) => {
      const fail = (message: string) => reject(new SwitchyardError('link_closed', `--health-port ${port}: ${message}`));
      thread.once('message', (reply: { port?: number; error?: string }) => {
        if (reply.port === undefined) fail(reply.error ?? 'no answer');
        else resolve(reply.port);
      });
      thread.once('error', (error) => fail(error.message));
    });
  }

  async close(): Promise<void> {
    clearInterval(this.#beat);
    await this.#thread?.terminate();
  }
}
