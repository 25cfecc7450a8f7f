import type { ApiClient } from '../api/client.ts';
import { closedLoop } from './closed-loop.ts';
import type { LevelReport } from './level-report.ts';
import { levelReport } from './level-report.ts';
import type { CompletionRequest } from './timed-completion.ts';
import { timedCompletion } from './timed-completion.ts';

export interface ServeBenchOptions {
  client: ApiClient;
  model: string;
  concurrencies: number[];
  /** Measured requests of a level, and requests before them that are not measured. */
  requestsAt(concurrency: number): number;
  warmupAt(concurrency: number): number;
  maxTokens: number;
  temperature: number;
  ignoreEos: boolean;
  extra: Record<string, unknown>;
  /** Makes the prompts of one level, warm-up included, one a call; different levels must not repeat one another's. */
  promptsFor(level: number): () => CompletionRequest['prompt'];
  onProgress(done: number, total: number, what: string): void;
  /** Called around each level's measured part, e.g. to read the server's own counters. */
  aroundLevel?: { before(): Promise<void>; after(report: LevelReport): Promise<void> };
  signal: AbortSignal;
}

/** Runs the levels one after the other and reports each. Ends early, with the levels finished so far, when the signal aborts. */
export async function serveBench(options: ServeBenchOptions): Promise<LevelReport[]> {
  const reports: LevelReport[] = [];
  const total = options.concurrencies.reduce((sum, c) => sum + options.requestsAt(c) + options.warmupAt(c), 0);
  let done = 0;
  for (const [level, concurrency] of options.concurrencies.entries()) {
    const warmup = options.warmupAt(concurrency);
    const measured = options.requestsAt(concurrency);
    const nextPrompt = options.promptsFor(level);
    const send = async () => {
      const completion = await timedCompletion(
        options.client,
        {
          model: options.model,
          prompt: nextPrompt(),
          maxTokens: options.maxTokens,
          temperature: options.temperature,
          ignoreEos: options.ignoreEos,
          extra: options.extra,
        },
        options.signal,
      );
      options.onProgress(++done, total, `concurrency ${concurrency}`);
      return completion;
    };
    const warm = await closedLoop(warmup, concurrency, options.signal, send);
    await options.aroundLevel?.before();
    const completions = await closedLoop(measured, concurrency, options.signal, send);
    if (options.signal.aborted) break;
    const report = levelReport(concurrency, completions);
    // A warm-up request that fails is as much a failure as a measured one.
    const failedWarm = warm.filter((c) => c.error !== null);
    if (failedWarm.length > 0) {
      report.errors += failedWarm.length;
      report.errorMessages.push({ message: `while warming up: ${failedWarm[0].error}`, count: failedWarm.length });
    }
    await options.aroundLevel?.after(report);
    reports.push(report);
  }
  return reports;
}
