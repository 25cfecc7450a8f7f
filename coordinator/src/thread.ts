import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';

/**
 * Starts one of the coordinator's threads; it does not keep the process alive. Threads run compiled JavaScript, also where the main thread runs sources (tests),
 * and so without the options of the main thread that let it.
 *
 * @param name path below src/ without extension, e.g. "health/health-thread"
 */
export function startThread(name: string, workerData: unknown): Worker {
  const thread = new Worker(fileURLToPath(new URL(`../dist/${name}.js`, import.meta.url)), { workerData, execArgv: [] });
  thread.unref();
  return thread;
}
