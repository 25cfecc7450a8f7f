import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import type { VerifyReport } from '@switchyard/worker';
import type { VerifyMessage, VerifyRequest } from './verify-thread.ts';

/**
 * Checks a checkpoint in a thread of its own: it computes for seconds or minutes without a pause, in which this thread would neither show progress nor notice
 * Ctrl-C.
 */
export async function verifyApart(
  request: VerifyRequest,
  onProgress: (done: number, total: number, what: string) => void,
): Promise<VerifyReport> {
  const thread = new Worker(fileURLToPath(new URL('../../dist/verify/verify-thread.js', import.meta.url)), {
    workerData: request,
    execArgv: [],
  });
  return await new Promise((resolve, reject) => {
    thread.on('message', (message: VerifyMessage) => {
      if (message.kind === 'progress') onProgress(message.done, message.total, message.what);
      else if (message.kind === 'report') resolve(message.report);
      else reject(Object.assign(new Error(message.error.message), message.error));
    });
    thread.on('error', reject);
    thread.on('exit', () => reject(new Error('the thread that checks has ended')));
  });
}
