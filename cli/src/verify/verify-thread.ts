/** The thread of `model verify`: its options in, progress and then the report or an error out. */
import { parentPort, workerData } from 'node:worker_threads';
import { type VerifyOptions, type VerifyReport, verifyCheckpoint } from '@switchyard/worker';

export type VerifyRequest = Omit<VerifyOptions, 'onProgress'>;

export type VerifyMessage =
  | { kind: 'progress'; done: number; total: number; what: string }
  | { kind: 'report'; report: VerifyReport }
  /** As its properties: a message between threads loses what class an error is of. */
  | { kind: 'error'; error: { name: string; message: string } & Record<string, unknown> };

const say = (message: VerifyMessage) => parentPort!.postMessage(message);

try {
  const report = await verifyCheckpoint({
    ...(workerData as VerifyRequest),
    onProgress: (done, total, what) => say({ kind: 'progress', done, total, what }),
  });
  say({ kind: 'report', report });
} catch (error) {
  const { name, message, code, errno, syscall, status } = error as NodeJS.ErrnoException & { status?: string };
  say({ kind: 'error', error: { name, message, code, status, ...(errno === undefined ? {} : { errno, syscall }) } });
}
